"""Memory of several engines together, in one process and under one budget."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from typing import NamedTuple

from swapnet.budget import Demand
from swapnet.executor.planning.layout import late_bytes, lay_out_values
from swapnet.executor.planning.usage import (
    demand,
    least_weights_bytes,
    page_table_bytes,
    scratch_within,
    usage,
)
from swapnet.manifest import Manifest
from swapnet.strips import Striping

__all__ = [
    "inside_bytes",
    "is_interruptible",
    "most_scratch_bytes",
    "other_bytes",
    "scratch_bytes",
    "session_bytes",
    "smallest_bytes",
    "stripings_within",
    "together",
]

Stripings = Sequence[Striping | None]
"""Blocks in strips of engines, in their order; none for those that it does not reach."""


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
    return Demand(
        sum(demand(manifest).weights_bytes for manifest in manifests),
        other_bytes(manifests, scratch_bytes(manifests, lanes=lanes), lanes=lanes),
        smallest_bytes(manifests, stripings_within(manifests, 0, lanes=lanes), lanes=lanes),
    )


def stripings_within(
    manifests: Sequence[Manifest], budget_bytes: int, *, lanes: int = 1
) -> tuple[Striping | None, ...]:
    """Blocks in strips with which engines fit in a budget: none, or those of few engines.

    Where no way fits, it is the one that needs the least.

    Notes
    -----
    Engines share scratch memory and values inside blocks, which count once: those of the largest.
    So for each amount of these each engine takes the way with the least memory of its own, and the
    largest amount that fits is chosen. Then engines go back to fewer strips, one after the other.
    """
    ways = [(None, *manifest.stripings) for manifest in manifests]
    parts = [[_part(m, way) for way in each] for m, each in zip(manifests, ways, strict=True)]
    own = [[p.own_bytes(lanes) + p.weights_bytes for p in each] for each in parts]
    shared = [[p.shared_bytes(lanes) for p in each] for each in parts]

    def needed(chosen: Sequence[int]) -> int:
        stripings = [each[number] for each, number in zip(ways, chosen, strict=True)]
        return smallest_bytes(manifests, stripings, lanes=lanes)

    best = [0] * len(ways)
    least = max(map(min, shared), default=0)
    for most in sorted({nbytes for each in shared for nbytes in each}, reverse=True):
        if most < least or needed(best) <= budget_bytes:
            break
        found = [
            min((n for n in range(len(own[i])) if shared[i][n] <= most), key=own[i].__getitem__)
            for i in range(len(ways))
        ]
        best = min(best, found, key=needed)
    for index, each in enumerate(ways):
        for number in range(len(each)):
            fewer = [*best[:index], number, *best[index + 1 :]]
            if needed(fewer) <= budget_bytes:
                best = fewer
                break
    return tuple(each[number] for each, number in zip(ways, best, strict=True))


def smallest_bytes(
    manifests: Sequence[Manifest], stripings: Stripings = (), *, lanes: int = 1
) -> int:
    """The smallest budget of engines with these blocks in strips."""
    limit = scratch_bytes(manifests, stripings, lanes=lanes)
    return other_bytes(manifests, limit, stripings, lanes=lanes) + _weights(manifests, stripings)


def other_bytes(
    manifests: Sequence[Manifest], limit_bytes: int, stripings: Stripings = (), *, lanes: int = 1
) -> int:
    """Memory of engines beside weights, under a limit of the scratch memory that they share.

    Values inside blocks share memory too, where one step is executed at a time.
    """
    own = sum(part.own_bytes(lanes) for part in _parts(manifests, stripings))
    inside = inside_bytes(manifests, stripings) if lanes == 1 else 0
    return own + inside + limit_bytes + page_table_bytes(limit_bytes)


def inside_bytes(manifests: Sequence[Manifest], stripings: Stripings = ()) -> int:
    """Memory for values inside the step that is executed, of any of these engines."""
    return max((part.inside_bytes for part in _parts(manifests, stripings)), default=0)


def scratch_bytes(
    manifests: Sequence[Manifest], stripings: Stripings = (), *, lanes: int = 1
) -> int:
    """Limit of the memory that steps share: the need of the largest that run at once."""
    needs = (part.scratch_bytes for part in _parts(manifests, stripings))
    return sum(sorted(needs, reverse=True)[:lanes])


def most_scratch_bytes(
    manifests: Sequence[Manifest], budget_bytes: int, stripings: Stripings = (), *, lanes: int = 1
) -> int:
    """Largest limit of scratch memory inside a budget: all weights are swapped beside it."""
    others = other_bytes(manifests, 0, stripings, lanes=lanes) + _weights(manifests, stripings)
    return scratch_within(budget_bytes - others)


def session_bytes(manifests: Sequence[Manifest]) -> int:
    """Upper limit of what the sessions of engines take beside scratch memory."""
    return sum(usage(manifest).process_bytes for manifest in manifests)


def is_interruptible(manifest: Manifest) -> bool:
    """True where others may run between two steps: no value lies in scratch memory then."""
    return all(manifest.is_sized(tensor) for tensor in (*manifest.values, *manifest.outputs))


class _Part(NamedTuple):
    """Memory of one engine among others: beside and with shared memory for values inside steps."""

    apart_bytes: int
    beside_bytes: int
    inside_bytes: int
    scratch_bytes: int
    weights_bytes: int

    def own_bytes(self, lanes: int) -> int:
        return self.beside_bytes if lanes == 1 else self.apart_bytes

    def shared_bytes(self, lanes: int) -> int:
        return self.scratch_bytes + (self.inside_bytes if lanes == 1 else 0)


def _parts(manifests: Sequence[Manifest], stripings: Stripings) -> list[_Part]:
    return [_part(*each) for each in zip_longest(manifests, stripings)]


def _part(manifest: Manifest, striping: Striping | None) -> _Part:
    kept: dict[Striping | None, _Part] = manifest.found.setdefault(_part, {})
    if striping not in kept:
        used = usage(manifest, striping)
        both, crossing, inside = (
            lay_out_values(manifest, striping, inside=each).nbytes for each in (None, False, True)
        )
        own = used.total_bytes - used.scratch_bytes
        beside = own + crossing - both
        if striping is not None and striping.late_bytes:
            # Pages that all engines share are not given back.
            beside += striping.late_bytes - late_bytes(manifest, striping, inside=False)
        weights = least_weights_bytes(manifest, striping)
        kept[striping] = _Part(own, beside, inside, used.scratch_bytes, weights)
    return kept[striping]


def _weights(manifests: Sequence[Manifest], stripings: Stripings) -> int:
    return sum(part.weights_bytes for part in _parts(manifests, stripings))
