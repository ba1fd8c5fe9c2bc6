"""Memory of several engines together, in one process and under one budget."""

from __future__ import annotations

from collections.abc import Sequence

from swapnet.budget import Demand
from swapnet.executor.planning.usage import (
    demand,
    least_weights_bytes,
    page_table_bytes,
    scratch_within,
    usage,
)
from swapnet.manifest import Manifest

__all__ = [
    "is_interruptible",
    "merging",
    "most_scratch_bytes",
    "other_bytes",
    "scratch_bytes",
    "session_bytes",
    "together",
]


def together(manifests: Sequence[Manifest], *, lanes: int = 1) -> Demand:
    """Memory of engines together when nothing is swapped.

    What each process takes was measured with readers of its own; together they share them, which
    leaves room for queues, curves and threads. Scratch memory is used while a step is executed, and
    shared by all: it counts once for each lane. Values across cuts, inputs and outputs exist from
    the first step of an inference to its last, others run meanwhile: they count for each engine.

    Parameters
    ----------
    manifests
        The engines.
    lanes
        Steps that are executed at the same moment.
    """
    merged, apart = (scratch_bytes(manifests, lanes=lanes, merged=each) for each in (True, False))
    return Demand(
        sum(demand(manifest).weights_bytes for manifest in manifests),
        other_bytes(manifests, merged),
        other_bytes(manifests, apart) + sum(map(least_weights_bytes, manifests)),
    )


def other_bytes(manifests: Sequence[Manifest], limit_bytes: int) -> int:
    """Memory of engines beside weights, under a limit of the scratch memory that they share."""
    used = map(usage, manifests)
    own = sum(one.total_bytes - one.scratch_bytes for one in used)
    return own + limit_bytes + page_table_bytes(limit_bytes)


def scratch_bytes(manifests: Sequence[Manifest], *, lanes: int = 1, merged: bool = True) -> int:
    """Limit of the memory that steps share: the need of the largest that run at once.

    Parameters
    ----------
    manifests, lanes
        As for `together`.
    merged
        True where steps may have several blocks.
    """
    return _largest([usage(manifest, merged=merged).scratch_bytes for manifest in manifests], lanes)


def merging(manifests: Sequence[Manifest], limit_bytes: int, *, lanes: int = 1) -> list[bool]:
    """True for each engine whose steps may have several blocks under a limit of scratch memory.

    Those with the smallest needs first.
    """
    needs = [usage(manifest, merged=False).scratch_bytes for manifest in manifests]
    merged = [usage(manifest).scratch_bytes for manifest in manifests]
    may_merge = [False] * len(needs)
    for index in sorted(range(len(needs)), key=merged.__getitem__):
        others = [*needs[:index], *needs[index + 1 :]]
        if _largest([*others, merged[index]], lanes) <= limit_bytes:
            needs[index] = merged[index]
            may_merge[index] = True
    return may_merge


def most_scratch_bytes(manifests: Sequence[Manifest], budget_bytes: int) -> int:
    """Largest limit of scratch memory inside a budget: all weights are swapped beside it."""
    weights = sum(map(least_weights_bytes, manifests))
    return scratch_within(budget_bytes - other_bytes(manifests, 0) - weights)


def session_bytes(manifests: Sequence[Manifest]) -> int:
    """Upper limit of what the sessions of engines take beside scratch memory."""
    return sum(usage(manifest).process_bytes for manifest in manifests)


def _largest(sizes: Sequence[int], count: int) -> int:
    return sum(sorted(sizes, reverse=True)[:count])


def is_interruptible(manifest: Manifest) -> bool:
    """True where others may run between two steps: no value lies in scratch memory then."""
    return all(manifest.is_sized(tensor) for tensor in (*manifest.values, *manifest.outputs))
