"""Positions of cuts: operators in execution order become blocks."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

__all__ = ["CUT_COST_BYTES", "Operator", "Span", "cut", "live_bytes"]

CUT_COST_BYTES = 1 << 20
"""Default cost of one more block: a call, a skeleton, a shorter read."""


@dataclass(frozen=True)
class Operator:
    """Facts of an operator that cutting needs.

    Attributes
    ----------
    weights, weights_bytes
        Names of its weights, and bytes of each.
    inputs, outputs
        Names of the values that it reads and writes.
    alone
        It must be a block by itself (a lookup).
    """

    weights: tuple[str, ...]
    weights_bytes: tuple[int, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    alone: bool = False


@dataclass(frozen=True)
class Span:
    """A block: operators ``start`` to ``stop`` - 1."""

    start: int
    stop: int


def live_bytes(
    operators: Sequence[Operator], outputs: Sequence[str], nbytes: dict[str, int | None]
) -> list[int | None]:
    """Bytes of the tensors live before each operator; None where a cut is not allowed.

    Parameters
    ----------
    operators
        In execution order.
    outputs
        Outputs of the model that are placed with the caller: they cost a cut nothing.
    nbytes
        Bytes of each value that may cross a cut, None for one that may not; model inputs are
        left out, for they lie with the caller too.
    """
    last_use = {name: index for index, op in enumerate(operators) for name in op.inputs}
    live: dict[str, int | None] = {}
    costs: list[int | None] = []
    for index, op in enumerate(operators):
        live = {name: size for name, size in live.items() if last_use[name] >= index}
        sizes = list(live.values())
        costs.append(None if None in sizes else sum(size for size in sizes if size is not None))
        for name in op.outputs:
            if name in nbytes and name not in outputs and last_use.get(name, -1) > index:
                live[name] = nbytes[name]
    return costs


def cut(
    operators: Sequence[Operator],
    max_block_bytes: int,
    live: Sequence[int | None],
    cut_cost_bytes: int = CUT_COST_BYTES,
    edges: Collection[int] = (),
) -> list[Span]:
    """Blocks of at most ``max_block_bytes`` of weights, cut where little is live (`live_bytes`).

    Minimises the sum over cuts of live bytes and ``cut_cost_bytes`` by dynamic programming.
    A block exceeds the limit only where a single operator does, or where no cut is allowed. Before
    each operator in ``edges`` there is a cut if one is allowed.
    """
    count = len(operators)
    best: list[tuple[int, int]] = [(0, 0)] + [(-1, -1)] * count
    for stop in range(1, count + 1):
        if stop < count and live[stop] is None:
            continue
        cut_cost = 0 if stop == count else cut_cost_bytes + (live[stop] or 0)
        fallback: tuple[int, int] | None = None
        weights: dict[str, int] = {}
        total = 0
        for start in range(stop - 1, -1, -1):
            op = operators[start]
            for name, nbytes in zip(op.weights, op.weights_bytes, strict=True):
                total += nbytes - weights.get(name, 0)
                weights[name] = nbytes
            mixed = start < stop - 1 and (op.alone or operators[stop - 1].alone)
            mixed |= start + 1 < stop and start + 1 in edges and live[start + 1] is not None
            if mixed or (total > max_block_bytes and fallback is not None):
                break
            if best[start][0] < 0:
                continue
            candidate = (best[start][0] + cut_cost, start)
            if fallback is None or candidate[0] < fallback[0]:
                fallback = candidate
        if fallback is not None:
            best[stop] = fallback
    spans: list[Span] = []
    stop = count
    while stop:
        start = best[stop][1]
        spans.append(Span(start, stop))
        stop = start
    return spans[::-1]
