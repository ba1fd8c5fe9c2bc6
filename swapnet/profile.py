"""``profile.json``: what was measured of an engine on a device, and what is assumed before."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import msgspec

from swapnet.errors import EngineError
from swapnet.files import replacing
from swapnet.manifest import Manifest

__all__ = ["PROFILE", "Profile", "assumed_profile", "load_profile", "save_profile"]

PROFILE = "profile.json"

Positive = Annotated[float, msgspec.Meta(gt=0)]


class Profile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Delays of one engine on one device.

    Attributes
    ----------
    device
        Fingerprint of the device that was measured; ``"assumed"`` where none was.
    block_ms
        Execution time of each block alone, median, warm, without the cost of the call.
    step_ms
        Cost of one call to the backend.
    storage_bytes_per_s
        Bandwidth of the executor's reader while nothing computes.
    busy_storage_bytes_per_s
        The same while the model computes.
    busy_slowdown
        Execution time while the reader reads over execution time without.
    """

    schema: Literal["swapnet-profile/1"]
    device: str
    block_ms: tuple[float, ...]
    step_ms: float
    storage_bytes_per_s: Positive
    busy_storage_bytes_per_s: Positive
    busy_slowdown: Positive


def assumed_profile(manifest: Manifest) -> Profile:
    """A profile for planning before any measurement: time in proportion to bytes touched."""
    return Profile(
        schema="swapnet-profile/1",
        device="assumed",
        block_ms=tuple(
            (block.extent.nbytes * block.is_graph + 4 * block.activation_bytes) / 2e6
            for block in manifest.blocks
        ),
        step_ms=0.2,
        storage_bytes_per_s=1.5e9,
        busy_storage_bytes_per_s=1.3e9,
        busy_slowdown=1.15,
    )


def load_profile(folder: Path, manifest: Manifest, device: str) -> Profile:
    """The profile of this device, or the assumed one where none was measured on it.

    Raises
    ------
    EngineError
        ``profile.json`` is damaged.
    """
    path = folder / PROFILE
    if not path.exists():
        return assumed_profile(manifest)
    try:
        profile = msgspec.json.decode(path.read_bytes(), type=Profile)
    except (OSError, msgspec.MsgspecError) as error:
        raise EngineError(
            f"{path} is damaged", why=str(error), hint=f"measure again: swapnet calibrate {folder}"
        ) from error
    if profile.device != device or len(profile.block_ms) != len(manifest.blocks):
        return assumed_profile(manifest)
    return profile


def save_profile(folder: Path, profile: Profile) -> None:
    """Write ``profile.json`` at once."""
    with replacing(folder / PROFILE) as temporary:
        temporary.write_bytes(msgspec.json.format(msgspec.json.encode(profile), indent=1) + b"\n")
