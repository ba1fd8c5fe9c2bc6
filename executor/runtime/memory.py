"""Memory of several engines together, in one process and under one budget."""

from __future__ import annotations

from collections.abc import Sequence

from swapnet.budget import Demand
from swapnet.executor.planning.layout import lay_out_values
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
    shared by all: it counts once for each lane. So are values inside blocks, with one lane. Values
    across cuts, inputs and outputs exist from the first step of an inference to its last, others
    run meanwhile: they count for each engine.

    Parameters
    ----------
    manifests
        The engines.
    lanes
        Steps that are executed at the same moment.
    """
    others = other_bytes(manifests, scratch_bytes(manifests, lanes=lanes), lanes=lanes)
    return Demand(
        sum(demand(manifest).weights_bytes for manifest in manifests),
        others,
        others + sum(map(least_weights_bytes, manifests)),
    )


def other_bytes(manifests: Sequence[Manifest], limit_bytes: int, *, lanes: int = 1) -> int:
    """Memory of engines beside weights, under a limit of the scratch memory that they share.

    Values inside blocks share memory too, where one step is executed at a time.
    """
    own = sum(one.total_bytes - one.scratch_bytes for one in map(usage, manifests))
    if lanes == 1:
        parts = [
            [lay_out_values(manifest, inside=inside).nbytes for inside in (None, False, True)]
            for manifest in manifests
        ]
        own += sum(crossing - both for both, crossing, _ in parts)
        own += max((inside for *_, inside in parts), default=0)
    return own + limit_bytes + page_table_bytes(limit_bytes)


def scratch_bytes(manifests: Sequence[Manifest], *, lanes: int = 1) -> int:
    """Limit of the memory that steps share: the need of the largest that run at once."""
    needs = sorted((usage(manifest).scratch_bytes for manifest in manifests), reverse=True)
    return sum(needs[:lanes])


def most_scratch_bytes(manifests: Sequence[Manifest], budget_bytes: int, *, lanes: int = 1) -> int:
    """Largest limit of scratch memory inside a budget: all weights are swapped beside it."""
    weights = sum(map(least_weights_bytes, manifests))
    return scratch_within(budget_bytes - other_bytes(manifests, 0, lanes=lanes) - weights)


def session_bytes(manifests: Sequence[Manifest]) -> int:
    """Upper limit of what the sessions of engines take beside scratch memory."""
    return sum(usage(manifest).process_bytes for manifest in manifests)


def is_interruptible(manifest: Manifest) -> bool:
    """True where others may run between two steps: no value lies in scratch memory then."""
    return all(manifest.is_sized(tensor) for tensor in (*manifest.values, *manifest.outputs))
