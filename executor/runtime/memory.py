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
    packing,
    page_table_bytes,
    scratch_within,
    smallest_striping,
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
    Values inside steps and scratch memory count once, those of the largest. So all begin with the
    most strips. Then each in turn takes the fewest with which all fit, or those that save most.
    """
    if smallest_bytes(manifests, lanes=lanes) <= budget_bytes:
        return (None,) * len(manifests)
    best = tuple(map(smallest_striping, manifests))
    for index, manifest in enumerate(manifests):
        needed = {
            ways: smallest_bytes(manifests, ways, lanes=lanes)
            for way in (None, *manifest.stripings)
            for ways in [(*best[:index], way, *best[index + 1 :])]
        }
        least = min(needed, key=needed.__getitem__)
        best = next((ways for ways, nbytes in needed.items() if nbytes <= budget_bytes), least)
    return best


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
    parts = _parts(manifests, stripings)
    own = sum(part.apart_bytes for part in parts)
    if lanes == 1:
        own = sum(part.beside_bytes for part in parts) + inside_bytes(manifests, stripings)
    return own + limit_bytes + page_table_bytes(limit_bytes)


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
    """Upper limit of what the sessions of engines take beside scratch memory, also when made."""
    packed = max((packing(manifest).transient_bytes for manifest in manifests), default=0)
    return packed + sum(usage(manifest).process_bytes for manifest in manifests)


def is_interruptible(manifest: Manifest) -> bool:
    """True where others may run between two steps: no value lies in scratch memory then."""
    return all(manifest.is_sized(tensor) for tensor in (*manifest.values, *manifest.outputs))


class _Part(NamedTuple):
    """Memory of one engine among others, without and with shared memory for values inside steps."""

    apart_bytes: int
    beside_bytes: int
    inside_bytes: int
    scratch_bytes: int
    weights_bytes: int


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
