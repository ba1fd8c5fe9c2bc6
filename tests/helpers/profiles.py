"""Profiles with delays of one's own."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import msgspec

from swapnet.executor.device import Device
from swapnet.manifest import Manifest
from swapnet.profile import BlockTime, Profile, Storage

__all__ = ["SmallRequests", "delays", "with_requests"]


def with_requests(profile: Profile, request_bytes: int, readers: int) -> Profile:
    """A profile in which requests of this size, and as many in flight, are the fastest."""
    replace = msgspec.structs.replace
    storage = replace(profile.storage, request_bytes=request_bytes, readers=readers)
    return replace(profile, storage=storage)


@dataclass(frozen=True)
class SmallRequests(Device):
    """A device on which small requests are the fastest."""

    request_bytes: int = 4096
    readers: int = 2

    def paced(self, profile: Profile) -> Profile:
        return with_requests(super().paced(profile), self.request_bytes, self.readers)


def delays(
    manifest: Manifest | None,
    blocks: Iterable[tuple[float, float]],
    *,
    step_ms: float = 0.0,
    latency_ms: float = 0.0,
    wake_ms: float = 0.0,
    bytes_per_s: float = 1e9,
    busy_bytes_per_s: float | None = None,
    readers: int = 3,
    request_bytes: int = 2 << 20,
) -> Profile:
    """Blocks alone and while reading, in milliseconds; storage is as fast while computing."""
    return Profile(
        schema="swapnet-profile/2",
        device="somewhere",
        engine="" if manifest is None else manifest.identity,
        blocks=tuple(BlockTime(idle, busy) for idle, busy in blocks),
        step_ms=step_ms,
        storage=Storage(
            request_bytes=request_bytes,
            readers=readers,
            latency_ms=latency_ms,
            bytes_per_s=bytes_per_s,
            busy_bytes_per_s=busy_bytes_per_s or bytes_per_s,
            wake_ms=wake_ms,
        ),
    )
