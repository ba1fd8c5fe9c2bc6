"""Predict the latency of a plan with the delays of one round instead of the stored ones."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

import msgspec

from swapnet.executor.bench.timing import Round
from swapnet.executor.planning.plan import Plan
from swapnet.executor.planning.timeline import predict
from swapnet.profile import Profile

__all__ = ["paired_predictions", "scaled"]


def scaled(profile: Profile, idle_ms: float, storage_bytes_per_s: float) -> Profile:
    """The profile of the same device at another hour.

    Parameters
    ----------
    profile
        The stored profile.
    idle_ms
        Latency of the whole model in memory, while nothing is read: all execution times are
        stretched to add up to it. 0 leaves them as they are.
    storage_bytes_per_s
        Bandwidth of storage while nothing computes: both bandwidths are stretched alike. 0 leaves
        them as they are.
    """
    whole_ms = profile.step_ms + sum(block.idle_ms for block in profile.blocks)
    slower = idle_ms / whole_ms if idle_ms and whole_ms else 1.0
    storage = profile.storage
    faster = storage_bytes_per_s / storage.bytes_per_s if storage_bytes_per_s else 1.0
    replace = msgspec.structs.replace
    return replace(
        profile,
        blocks=tuple(
            replace(block, idle_ms=block.idle_ms * slower, busy_ms=block.busy_ms * slower)
            for block in profile.blocks
        ),
        step_ms=profile.step_ms * slower,
        storage=replace(
            storage,
            bytes_per_s=storage.bytes_per_s * faster,
            busy_bytes_per_s=storage.busy_bytes_per_s * faster,
        ),
    )


def paired_predictions(
    plan: Plan, profile: Profile, resident: Sequence[Round]
) -> tuple[float, ...]:
    """Milliseconds predicted from the execution time and bandwidth of each round.

    Parameters
    ----------
    plan, profile
        The executed plan, and the stored delays.
    resident
        Rounds of the side that keeps everything in memory.
    """
    hours = [scaled(profile, median(r.idle_ms), r.storage_bytes_per_s) for r in resident]
    return tuple(predict(plan.steps, plan.reads, hour).steady_ms for hour in hours)
