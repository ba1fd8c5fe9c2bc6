"""Memory of several engines together, in one process and under one budget."""

from __future__ import annotations

from collections.abc import Sequence

from swapnet.budget import Demand
from swapnet.executor.planning.layout import is_placed
from swapnet.executor.planning.usage import demand, least_weights_bytes, page_table_bytes, usage
from swapnet.manifest import Manifest

__all__ = ["is_interruptible", "scratch_bytes", "sizes_may_depend_on_data", "together"]


_SIZED_BY_DATA = frozenset(
    ("Compress", "Expand", "If", "Loop", "NonMaxSuppression", "NonZero", "Range", "Tile", "Unique")
)
"""Operators whose outputs are as large as values of their inputs say; bodies may hold others."""


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
    used = [usage(manifest) for manifest in manifests]
    scratch = scratch_bytes(manifests, lanes=lanes)
    other = sum(one.total_bytes - one.scratch_bytes for one in used)
    other += scratch + page_table_bytes(scratch)
    return Demand(
        sum(demand(manifest).weights_bytes for manifest in manifests),
        other,
        other + sum(map(least_weights_bytes, manifests)),
    )


def scratch_bytes(manifests: Sequence[Manifest], *, lanes: int = 1) -> int:
    """Limit of the memory that steps share: the need of the largest that run at once."""
    largest = sorted((usage(manifest).scratch_bytes for manifest in manifests), reverse=True)
    return sum(largest[:lanes])


def is_interruptible(manifest: Manifest) -> bool:
    """True where others may run between two steps: no value lies in scratch memory then."""
    return all(is_placed(tensor) for tensor in (*manifest.values, *manifest.outputs))


def sizes_may_depend_on_data(manifest: Manifest) -> bool:
    """True where a value inside a block may be larger than in any run that was measured."""
    operators = {operator for block in manifest.blocks for operator in block.operators}
    return not is_interruptible(manifest) or not operators.isdisjoint(_SIZED_BY_DATA)
