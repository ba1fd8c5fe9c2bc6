"""A bound of the latency that knows the memory: docs/performance.md has the argument."""

from __future__ import annotations

from collections.abc import Sequence

from swapnet.executor.planning.plan import Plan
from swapnet.executor.planning.shared import extents_of
from swapnet.executor.planning.usage import mappable_bytes, usage
from swapnet.manifest import Extent, Manifest
from swapnet.profile import Profile

__all__ = ["cycle_floor_ms", "floor_ms"]


def floor_ms(
    manifest: Manifest,
    plan: Plan,
    delays: Profile,
    *,
    execution_ms: float | None = None,
    ahead_bytes: int = 0,
) -> float:
    """Least latency of all schedules that have a plan's budget and read as many bytes.

    Parameters
    ----------
    manifest, plan
        The engine and the plan.
    delays
        Execution times of blocks, and the idle bandwidth of storage.
    execution_ms
        Latency of the unswapped model; by default the sum of the blocks' idle times.
    ahead_bytes
        Bytes that are read in a pause before each inference.
    """
    whole_ms = sum(block.idle_ms for block in delays.blocks)
    if execution_ms is None:
        execution_ms = whole_ms
    stretched = execution_ms / whole_ms if whole_ms else 0.0
    ms_per_byte = 1e3 / delays.storage.bytes_per_s
    shares = (e.file_nbytes / e.nbytes for e in manifest.extents if e.nbytes)
    least_share = min(shares, default=1.0)
    beside_bytes = usage(manifest).total_bytes
    cycle_ms = cycle_floor_ms(
        [extents_of(manifest, block.index) for block in manifest.blocks],
        [block.idle_ms * stretched for block in delays.blocks],
        max(mappable_bytes(plan.budget_bytes - beside_bytes), plan.arena_bytes),
        ms_per_byte * least_share,
        ahead_bytes=ahead_bytes,
    )
    return max(cycle_ms, execution_ms, (plan.streamed_bytes - ahead_bytes) * ms_per_byte)


def cycle_floor_ms(
    needed: Sequence[Sequence[Extent]],
    step_ms: Sequence[float],
    memory_bytes: int,
    ms_per_byte: float,
    *,
    ahead_bytes: int = 0,
) -> float:
    """Least time of a cycle of steps that need extents in a memory, however it is managed.

    From the end of a step to the beginning of a later one, all bytes of these two and of those
    between are in memory at some moment. It holds ``memory_bytes`` of them at first, those of the
    earlier step among them. The others are read meanwhile. The later step, those after it and the
    earlier one compute outside of that time. The largest sum over all pairs of steps is returned.

    Parameters
    ----------
    needed, step_ms
        Extents that each step needs, and its execution time.
    memory_bytes, ms_per_byte
        Memory for extents, and reading time.
    ahead_bytes
        Bytes that are read between the last step and the first, in time that does not count.
    """
    count = len(step_ms)
    whole_ms = longest_ms = sum(step_ms)
    for first in range(count):
        known: set[Extent] = set()
        missing, saved, outside_ms = -memory_bytes, 0, whole_ms
        for position in range(first, first + count):
            for extent in needed[position % count]:
                if extent not in known:
                    known.add(extent)
                    missing += extent.nbytes
                    saved += extent.nbytes - extent.file_nbytes
            if position > first:
                # Those that are stored in half as many bytes are missing first: that is least.
                ahead = ahead_bytes if position >= count else 0
                read = missing - min(saved, missing / 2) - ahead
                if missing > 0 < read:
                    longest_ms = max(longest_ms, read * ms_per_byte + outside_ms)
                outside_ms -= step_ms[position % count]
    return longest_ms
