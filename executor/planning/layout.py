"""Lay out values that live across cuts: fixed offsets, known before anything runs."""

from __future__ import annotations

from bisect import insort
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate

from swapnet.manifest import TENSOR_ALIGNMENT, Manifest
from swapnet.units import align_up

__all__ = [
    "Interval",
    "ValueLayout",
    "last_uses",
    "lay_out_all",
    "lay_out_staged",
    "lay_out_values",
    "lifetimes",
    "pack",
    "spans",
]

_TURNS = 64


@dataclass(frozen=True)
class Interval:
    """A value's size, and the blocks or operators from its birth to its last use, both included."""

    name: str
    nbytes: int
    first: int
    last: int


@dataclass(frozen=True)
class ValueLayout:
    """Offsets of the placed values in their region, in bytes."""

    offsets: Mapping[str, int]
    nbytes: int


def spans(steps: Iterable[Iterable[str]]) -> dict[str, tuple[int, int]]:
    """First and last step that touches each name, by the steps' numbers from 0."""
    found: dict[str, tuple[int, int]] = {}
    for index, names in enumerate(steps):
        for name in names:
            found[name] = (found.get(name, (index, 0))[0], index)
    return found


def lifetimes(manifest: Manifest) -> dict[str, tuple[int, int]]:
    """First and last block that touches each value across a cut."""
    values = {value.name for value in manifest.values}
    return {name: span for name, span in _touched(manifest).items() if name in values}


def _touched(manifest: Manifest) -> dict[str, tuple[int, int]]:
    return spans((*block.inputs, *block.outputs) for block in manifest.blocks)


def last_uses(manifest: Manifest) -> dict[str, int]:
    """Last block that reads each value of unknown size, without model outputs."""
    outputs = {tensor.name for tensor in manifest.outputs}
    return {
        value.name: lifetimes(manifest)[value.name][1]
        for value in manifest.values
        if not manifest.is_sized(value) and value.name not in outputs
    }


def lay_out_values(manifest: Manifest, *, inside: bool | None = None) -> ValueLayout:
    """Offsets for values whose size follows from the shapes of the inputs.

    Parameters
    ----------
    inside
        True for those that live inside one block alone, False for those that cross a cut; None for
        all of them.
    """
    alive = manifest.lives or lifetimes(manifest)
    crossing = {name for name, (first, last) in lifetimes(manifest).items() if first < last}
    placed = {
        value.name: value.nbytes
        for value in manifest.values
        if manifest.is_sized(value)
        and value.name in alive
        and (inside is None or inside != (value.name in crossing))
    }
    place_of = {name: name for name in placed}
    for block in manifest.blocks:
        for output, name in block.inplace.items():
            dies = name in placed and output in placed and alive[name][1] == alive[output][0]
            if dies and placed[name] == placed[output]:
                place_of[output] = place_of[name]
    members: dict[str, list[str]] = {}
    for name, place in place_of.items():
        members.setdefault(place, []).append(name)
    layout = pack(
        Interval(
            place,
            placed[place],
            min(alive[name][0] for name in names),
            max(alive[name][1] for name in names),
        )
        for place, names in members.items()
    )
    return ValueLayout(
        {name: layout.offsets[place] for name, place in place_of.items()}, layout.nbytes
    )


def lay_out_all(manifest: Manifest) -> ValueLayout:
    """Offsets on a GPU for inputs, values and outputs, each of its planned size.

    Inputs live from the beginning, outputs until the end.
    """
    alive = _touched(manifest)
    end = len(manifest.blocks)
    for tensor in manifest.inputs:
        alive[tensor.name] = (-1, alive.get(tensor.name, (-1, -1))[1])
    for tensor in manifest.outputs:
        alive[tensor.name] = (alive[tensor.name][0], end)
    return pack(
        Interval(name, manifest.tensors[name].nbytes, first, last)
        for name, (first, last) in alive.items()
    )


def lay_out_staged(manifest: Manifest) -> ValueLayout:
    """Offsets for tensors that are copied between host and GPU: also those of lookup blocks.

    None overlap: several copies may be under way.
    """
    lookups = [block for block in manifest.blocks if not block.is_graph]
    names = [tensor.name for tensor in (*manifest.inputs, *manifest.outputs)]
    names += [name for block in lookups for name in (*block.inputs, *block.outputs)]
    offsets: dict[str, int] = {}
    nbytes = 0
    for name in dict.fromkeys(names):
        offsets[name] = nbytes
        nbytes = align_up(nbytes + manifest.tensors[name].nbytes, TENSOR_ALIGNMENT)
    return ValueLayout(offsets, nbytes)


def pack(intervals: Iterable[Interval]) -> ValueLayout:
    """Offsets such that no two values that live at the same time overlap.

    Greedy by size, each at the lowest offset that is free during its life (Pisarchyk and Lee,
    "Efficient Memory Management for Deep Neural Net Inference", arXiv 2001.03288, section 5).
    Where that leaves holes, the value that lies highest is placed earlier, and all again: a few
    turns reach what lives at once (Joslin and Clements, "Squeaky Wheel Optimization", 1999).
    """
    return _packed(tuple(sorted(intervals, key=lambda i: (-i.nbytes, i.first, i.name))))


@lru_cache(64)  # every plan of an engine asks for the same
def _packed(intervals: tuple[Interval, ...]) -> ValueLayout:
    order = list(intervals)
    least = _largest_sum(order)
    best, highest = _placed(order)
    for _ in range(_TURNS):
        if best.nbytes <= least or not highest:
            break
        order.insert(highest // 2, order.pop(highest))
        found, highest = _placed(order)
        best = min(best, found, key=lambda layout: layout.nbytes)
    return best


def _largest_sum(intervals: Sequence[Interval]) -> int:
    """The largest sum of values that live at once."""
    changes: Counter[int] = Counter()
    for item in intervals:
        changes[2 * item.first] += item.nbytes
        changes[2 * item.last + 1] -= item.nbytes
    return max(accumulate(changes[when] for when in sorted(changes)), default=0)


def _placed(order: Sequence[Interval]) -> tuple[ValueLayout, int]:
    """The layout of values that are placed in turn, and the position of the one that ends last."""
    placed: list[tuple[int, int, Interval]] = []
    offsets: dict[str, int] = {}
    highest = nbytes = 0
    for position, item in enumerate(order):
        offset = 0
        for start, end, other in placed:
            if other.last < item.first or item.last < other.first:
                continue
            if offset + item.nbytes <= start:
                break
            offset = max(offset, align_up(end, TENSOR_ALIGNMENT))
        offsets[item.name] = offset
        end = offset + item.nbytes
        insort(placed, (offset, end, item), key=lambda place: place[0])
        if end > nbytes:
            nbytes, highest = end, position
    return ValueLayout(offsets, nbytes), highest
