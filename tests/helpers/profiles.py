"""Profiles with delays of one's own."""

from __future__ import annotations

from collections.abc import Iterable

from swapnet.manifest import Manifest
from swapnet.profile import BlockTime, Profile, Storage

__all__ = ["delays"]


def delays(
    manifest: Manifest | None,
    blocks: Iterable[tuple[float, float]],
    *,
    step_ms: float = 0.0,
    latency_ms: float = 0.0,
    bytes_per_s: float = 1e9,
    busy_bytes_per_s: float | None = None,
    readers: int = 3,
) -> Profile:
    """Blocks alone and while reading, in milliseconds; storage is as fast while computing."""
    return Profile(
        schema="swapnet-profile/2",
        device="somewhere",
        engine="" if manifest is None else manifest.identity,
        blocks=tuple(BlockTime(idle, busy) for idle, busy in blocks),
        step_ms=step_ms,
        storage=Storage(
            request_bytes=2 << 20,
            readers=readers,
            latency_ms=latency_ms,
            bytes_per_s=bytes_per_s,
            busy_bytes_per_s=busy_bytes_per_s or bytes_per_s,
        ),
    )
