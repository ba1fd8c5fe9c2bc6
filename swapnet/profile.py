"""``profile.json``: delays of an engine that were measured on a device, or are assumed.

At other input shapes than those of the build: ``shapes/profile-KEY.json``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec

from swapnet.errors import EngineError
from swapnet.files import make_folder, replacing
from swapnet.manifest import Manifest
from swapnet.shapes import SHAPES, shapes_key

__all__ = [
    "ASSUMED",
    "PROFILE",
    "BlockTime",
    "Need",
    "Profile",
    "Request",
    "Storage",
    "assumed_profile",
    "load_profile",
    "profile_paths",
    "save_profile",
    "with_needs",
    "with_storage",
]

PROFILE = "profile.json"

ASSUMED = "assumed"
_SCHEMA: Final = "swapnet-profile/2"

Positive = Annotated[float, msgspec.Meta(gt=0)]
Delay = Annotated[float, msgspec.Meta(ge=0)]


class _Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    pass


class BlockTime(_Record, frozen=True):
    """Execution of one block, without the cost of the call.

    Attributes
    ----------
    idle_ms, busy_ms
        Median, warm, while nothing is read, and while the reader reads.
    spread
        Interquartile range of the idle times over their median.
    """

    idle_ms: Delay
    busy_ms: Delay
    spread: Delay = 0.0


class Request(_Record, frozen=True):
    """Speed of storage with requests of ``nbytes``, ``readers`` of them in flight.

    Attributes
    ----------
    bytes_per_s, latency_ms
        Bandwidth of all together, and duration of one.
    busy
        Whether the model computed meanwhile.
    compute_speed
        Speed of the model meanwhile, over its speed while nothing is read.
    """

    nbytes: int
    readers: int
    bytes_per_s: Positive
    latency_ms: Delay
    busy: bool
    compute_speed: Positive = 1.0


class Storage(_Record, frozen=True):
    """Speed of the executor's reader.

    Attributes
    ----------
    request_bytes, readers
        Size of one request and number in flight: the best pair while computing
        (`swapnet.calibration.delays.requests.choose`).
    latency_ms
        Delay of a request after a pause, beyond its share of the bandwidth, until a reader and
        storage wake up.
    bytes_per_s, busy_bytes_per_s
        Bandwidth while nothing computes, and while the model computes.
    requests
        All measurements.
    wake_ms
        Time from the arrival of bytes until the thread that waits for them goes on.
    """

    request_bytes: int
    readers: int
    latency_ms: Delay
    bytes_per_s: Positive
    busy_bytes_per_s: Positive
    requests: tuple[Request, ...] = ()
    wake_ms: Delay = 0.0


class Need(_Record, frozen=True):
    """Memory of a block beside its weights on this GPU, as in `Block`, where it is an estimate."""

    skeleton_bytes: int
    activation_bytes: int


class Profile(_Record, frozen=True, omit_defaults=True):
    """Delays of one engine on one device.

    Attributes
    ----------
    device
        Fingerprint of the measured device; ``"assumed"`` where nothing was measured.
    engine
        `Manifest.identity` of the measured engine.
    step_ms
        Cost of one call to the backend.
    needs
        By block; empty where the manifest has them.
    chunk
        By block, for the tokens of a prompt that a decoder computes at a time; ``blocks`` are then
        for a single token. Empty for other models.
    """

    schema: Literal["swapnet-profile/2"]
    device: str
    engine: str
    blocks: tuple[BlockTime, ...]
    step_ms: Delay
    storage: Storage
    needs: tuple[Need, ...] = ()
    chunk: tuple[BlockTime, ...] = ()

    @property
    def of_chunk(self) -> Profile:
        """The delays with those of a chunk of a prompt as those of the blocks."""
        return msgspec.structs.replace(self, blocks=self.chunk or self.blocks)

    @property
    def is_assumed(self) -> bool:
        """Whether nothing was measured."""
        return self.device == ASSUMED


class _Versioned(msgspec.Struct, frozen=True):
    schema: str


def assumed_profile(manifest: Manifest) -> Profile:
    """A profile for planning before any measurement: time in proportion to bytes touched."""
    times = [(block.swapped_bytes + 4 * block.activation_bytes) / 2e6 for block in manifest.blocks]
    return Profile(
        schema=_SCHEMA,
        device=ASSUMED,
        engine=manifest.identity,
        blocks=tuple(BlockTime(ms, 1.15 * ms) for ms in times),
        step_ms=0.1,
        storage=Storage(
            request_bytes=4 << 20,
            readers=1,
            latency_ms=0.5,
            bytes_per_s=1.5e9,
            busy_bytes_per_s=1.3e9,
        ),
    )


def with_needs(manifest: Manifest, needs: Sequence[Need]) -> Manifest:
    """The manifest with the needs of its blocks here; unchanged where nothing was measured."""
    if not needs:
        return manifest
    blocks = tuple(
        msgspec.structs.replace(
            block,
            skeleton_bytes=need.skeleton_bytes,
            activation_bytes=need.activation_bytes,
        )
        for block, need in zip(manifest.blocks, needs, strict=True)
    )
    return msgspec.structs.replace(manifest, blocks=blocks)


def with_storage(profile: Profile, *, bytes_per_s: float, busy_bytes_per_s: float) -> Profile:
    """The same delays with other storage, by its bandwidth alone and while blocks execute."""
    storage = msgspec.structs.replace(
        profile.storage, bytes_per_s=bytes_per_s, busy_bytes_per_s=busy_bytes_per_s
    )
    return msgspec.structs.replace(profile, storage=storage)


def profile_paths(folder: Path, manifest: Manifest) -> tuple[Path, Path]:
    """Possible places of a profile: for the shapes of the build, and for others."""
    key = shapes_key(manifest.inputs, manifest.planned_shapes)
    return folder / PROFILE, folder / SHAPES / f"profile-{key}.json"


def load_profile(folder: Path, manifest: Manifest, device: str) -> Profile:
    """The profile of this engine on this device, or the assumed one where none was measured.

    A profile of another format is ignored.

    Raises
    ------
    EngineError
        The file is damaged.
    """
    for path in profile_paths(folder, manifest):
        profile = _read(path, folder)
        if profile is None:
            continue
        measured = (profile.device, profile.engine, len(profile.blocks))
        if measured == (device, manifest.identity, len(manifest.blocks)):
            return profile
    return assumed_profile(manifest)


def _read(path: Path, folder: Path) -> Profile | None:
    try:
        data = path.read_bytes()
        if msgspec.json.decode(data, type=_Versioned).schema != _SCHEMA:
            return None
        return msgspec.json.decode(data, type=Profile)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError) as error:
        raise EngineError(
            f"{path} is damaged", why=str(error), hint=f"measure again: swapnet measure {folder}"
        ) from error


def save_profile(folder: Path, profile: Profile, shapes_key: str = "") -> None:
    """Write ``profile.json`` at once, or that of other input shapes than the build's.

    Raises
    ------
    StorageError
        The engine directory can't be written.
    """
    path = folder / SHAPES / f"profile-{shapes_key}.json" if shapes_key else folder / PROFILE
    make_folder(path.parent)
    with replacing(path) as temporary:
        temporary.write_bytes(msgspec.json.format(msgspec.json.encode(profile), indent=1) + b"\n")
