"""A bound of the latency that knows the memory: docs/performance.md has the argument."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from swapnet.executor.planning.plan import Plan
from swapnet.executor.planning.usage import mappable_bytes, usage
from swapnet.manifest import Manifest
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
    """Latency of which no schedule with a plan's budget stays below that reads as many bytes.

    Parameters
    ----------
    manifest, plan
        The engine, and the plan: it gives the memory for weights, and the bytes that are read.
    delays
        Execution times of blocks, and the idle bandwidth of storage.
    execution_ms
        Latency of the unswapped model, which the blocks share as their idle times do; by default
        the sum of these.
    ahead_bytes
        Bytes that are read in a pause before each inference.
    """
    idle_ms = [block.idle_ms for block in delays.blocks]
    whole_ms = sum(idle_ms)
    if execution_ms is None:
        execution_ms = whole_ms
    stretched = execution_ms / whole_ms if whole_ms else 0.0
    ms_per_byte = 1e3 / delays.storage.bytes_per_s
    beside_bytes = usage(manifest, merged=False).total_bytes
    cycle_ms = cycle_floor_ms(
        [block.swapped_bytes for block in manifest.blocks],
        manifest.shared_by,
        [each.extent.nbytes for each in manifest.shared],
        [ms * stretched for ms in idle_ms],
        max(mappable_bytes(plan.budget_bytes - beside_bytes), plan.arena_bytes),
        ms_per_byte,
        ahead_bytes=ahead_bytes,
    )
    return max(cycle_ms, execution_ms, (plan.streamed_bytes - ahead_bytes) * ms_per_byte)


def cycle_floor_ms(
    own_bytes: Sequence[int],
    shared_by: Sequence[Collection[int]],
    shared_bytes: Sequence[int],
    step_ms: Sequence[float],
    memory_bytes: int,
    ms_per_byte: float,
    *,
    ahead_bytes: int = 0,
) -> float:
    """Least time of a cycle of steps that need their bytes in a memory, however it is managed.

    From the end of a step to the beginning of a later one, all bytes of these two and of those
    between are in memory at some moment. The memory holds ``memory_bytes`` of them at the
    beginning, those of the earlier step among them. The others are read meanwhile. The later step,
    those after it and the earlier one compute outside of that time.

    Parameters
    ----------
    own_bytes
        Bytes of each step that no other step needs.
    shared_by, shared_bytes
        Positions of the shared parts that each step needs, and bytes of each part.
    step_ms
        Execution time of each step.
    memory_bytes
        Memory for bytes.
    ms_per_byte
        Reading time.
    ahead_bytes
        Bytes that are read between the last step and the first, in time that does not count.

    Returns
    -------
    float
        Milliseconds: the largest over all pairs of steps.
    """
    count = len(step_ms)
    whole_ms = longest_ms = sum(step_ms)
    for first in range(count):
        known = set(shared_by[first])
        missing = own_bytes[first] + sum(shared_bytes[i] for i in known) - memory_bytes
        outside_ms = whole_ms
        for position in range(first + 1, first + count):
            if position == count:
                missing -= ahead_bytes
            later = position % count
            missing += own_bytes[later]
            for i in shared_by[later]:
                if i not in known:
                    known.add(i)
                    missing += shared_bytes[i]
            if missing > 0:
                longest_ms = max(longest_ms, missing * ms_per_byte + outside_ms)
            outside_ms -= step_ms[later]
    return longest_ms
