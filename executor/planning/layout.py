"""Lay out values that live across cuts: fixed offsets, known before anything runs."""

from __future__ import annotations

from bisect import insort
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import accumulate
from mmap import PAGESIZE

from swapnet.manifest import TENSOR_ALIGNMENT, Manifest
from swapnet.strips import Run, Striped, Striping
from swapnet.units import align_up

__all__ = [
    "OWN_PAGES_BYTES",
    "Interval",
    "ValueLayout",
    "inside_run",
    "largest_sum",
    "largest_within",
    "last_uses",
    "late_bytes",
    "late_outputs",
    "lay_out_all",
    "lay_out_staged",
    "lay_out_values",
    "lifetimes",
    "lives_of",
    "pack",
    "span_of",
    "spans",
    "strip_value",
]

_TURNS = 64

OWN_PAGES_BYTES = 1 << 20
"""Size from which an output has pages of its own, which are taken when it is written."""


@dataclass(frozen=True)
class Interval:
    """A value's size, and the blocks or operators from its birth to its last use, both included."""

    name: str
    nbytes: int
    first: int
    last: int


@dataclass(frozen=True)
class ValueLayout:
    """Offsets of the placed values in their region, in bytes, and the lives of the places there."""

    offsets: Mapping[str, int]
    nbytes: int
    places: tuple[Interval, ...] = ()

    def kept(self, moment: int) -> list[tuple[int, int]]:
        """First byte and byte after the last of pages that hold values from a moment on."""
        spans = sorted(
            (self.offsets[p.name] // PAGESIZE * PAGESIZE, self.offsets[p.name] + p.nbytes)
            for p in self.places
            if p.last >= moment
        )
        kept: list[tuple[int, int]] = []
        for start, end in spans:
            stop = align_up(end, PAGESIZE)
            if kept and start <= kept[-1][1]:
                kept[-1] = kept[-1][0], max(stop, kept[-1][1])
            else:
                kept.append((start, stop))
        return kept


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


def lives_of(manifest: Manifest) -> Mapping[str, tuple[int, int]]:
    """First and last moment that touches each value; see `span_of`."""
    return manifest.lives or lifetimes(manifest)


def span_of(manifest: Manifest, first: int, last: int) -> tuple[int, int]:
    """First and last moment of consecutive blocks: operators, or blocks in engines without them."""
    sizes = (len(block.operators) if manifest.lives else 1 for block in manifest.blocks)
    starts = [0, *accumulate(sizes)]
    return starts[first], starts[last + 1] - 1


def inside_run(manifest: Manifest, run: Run | Striped) -> set[str]:
    """Values that only the blocks of a run touch."""
    blocks = range(run.first, run.last + 1)
    written = {name for index in blocks for name in manifest.blocks[index].outputs}
    others = (block for block in manifest.blocks if block.index not in blocks)
    read = {name for block in others for name in block.inputs}
    return written - read - {tensor.name for tensor in manifest.outputs}


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


def strip_value(first: int, name: str) -> str:
    """Name of the memory for the rows of a tensor in strips of the run from block ``first`` on."""
    return f"\0{first} {name}"


def strip_lives(manifest: Manifest, run: Striped) -> dict[str, tuple[int, int]]:
    """First and last moment of the rows of each tensor, in each strip of a run.

    Those that the run reads are there before, those that it gives are there until the end.
    """
    start, end = span_of(manifest, run.first, run.last)
    blocks = manifest.blocks[run.first : run.last + 1]
    given = {name for block in blocks for name in block.outputs} - inside_run(manifest, run)
    lives: dict[str, tuple[int, int]] = {}
    for name in run.nbytes:
        first, last = lives_of(manifest).get(name, (start, end))
        lives[name] = max(first, start), end if name in given else min(last, end)
    return lives


def lay_out_values(
    manifest: Manifest, striping: Striping | None = None, *, inside: bool | None = None
) -> ValueLayout:
    """Offsets for values whose size follows from the shapes of the inputs.

    Of values inside a run in strips only the rows of a strip have places. Strips read rows again
    that lie beside theirs, so nothing is written over what the run reads.

    Parameters
    ----------
    striping
        The blocks in strips.
    inside
        True for those that live inside one step alone, False for those that others may see; None
        for all of them.
    """
    place_of, places = _places(manifest, striping, inside)
    layout = pack(places)
    offsets = {name: layout.offsets[place] for name, place in place_of.items()}
    return ValueLayout(offsets, layout.nbytes, places)


def largest_within(manifest: Manifest, first: int, last: int, run: Striped | None = None) -> int:
    """The largest sum of values that live at once while some blocks run, maybe in strips."""
    start, end = span_of(manifest, first, last)
    _, places = _places(manifest, None if run is None else Striping((run,), 0), None)
    return largest_sum(
        [
            replace(place, first=max(place.first, start), last=min(place.last, end))
            for place in places
            if place.first <= end and start <= place.last
        ]
    )


def _places(
    manifest: Manifest, striping: Striping | None, inside: bool | None
) -> tuple[dict[str, str], tuple[Interval, ...]]:
    """The place of each value, named after one that lies there, and the lives of all places."""
    alive = dict(lives_of(manifest))
    crossing = {name for name, (first, last) in lifetimes(manifest).items() if first < last}
    placed = {
        value.name: value.nbytes
        for value in manifest.values
        if manifest.is_sized(value)
        and value.name in alive
        and (inside is None or inside != (value.name in crossing))
    }
    runs = () if striping is None else striping.runs
    for run in runs:
        hidden, span = inside_run(manifest, run), span_of(manifest, run.first, run.last)
        placed = {name: nbytes for name, nbytes in placed.items() if name not in hidden}
        for name, (first, last) in alive.items():
            if first <= span[1] and span[0] <= last:
                alive[name] = min(first, span[0]), max(last, span[1])
        for name, life in strip_lives(manifest, run).items():
            # Between two blocks of a strip that are apart others may run.
            is_inside = not run.apart or (name in hidden and name not in crossing)
            if inside is None or inside == is_inside:
                alive[strip_value(run.first, name)] = life
                placed[strip_value(run.first, name)] = run.nbytes[name]
    place_of = {name: name for name in placed}
    for block in manifest.blocks:
        starts = [run.first for run in runs if run.first <= block.index <= run.last]
        for pair in block.inplace.items():
            output, name = (strip_value(starts[0], n) if starts else n for n in pair)
            dies = name in placed and output in placed and alive[name][1] == alive[output][0]
            if dies and placed[name] == placed[output]:
                place_of[output] = place_of[name]
    members: dict[str, list[str]] = {}
    for name, place in place_of.items():
        members.setdefault(place, []).append(name)
    return place_of, tuple(
        Interval(
            place,
            placed[place],
            min(alive[name][0] for name in names),
            max(alive[name][1] for name in names),
        )
        for place, names in members.items()
    )


def late_outputs(manifest: Manifest, runs: tuple[Striped, ...]) -> tuple[int, int]:
    """The block before which pages of dead values are best given back, and what that saves.

    Large outputs take no memory before they are written; see `swapnet.strips.Striping`.
    """
    late = _late(manifest, runs)
    saved = ((block, late_bytes(manifest, Striping(runs, 0, block))) for block in late)
    return max(((0, 0), *saved), key=lambda found: found[1])


def late_bytes(manifest: Manifest, striping: Striping, *, inside: bool | None = None) -> int:
    """What outputs take of the pages that are given back before block ``late_from``.

    With ``inside`` as in `lay_out_values`: pages of these values alone are given back.
    """
    layout = lay_out_values(manifest, striping, inside=inside)
    kept = layout.kept(span_of(manifest, striping.late_from, striping.late_from)[0])
    dead = layout.nbytes - sum(stop - start for start, stop in kept)
    late = _late(manifest, striping.runs)
    return min(dead, sum(nbytes for first, nbytes in late.items() if first >= striping.late_from))


def _late(manifest: Manifest, runs: tuple[Striped, ...]) -> Counter[int]:
    """Bytes of large outputs by the block, or the first one in strips, that writes them."""
    touched, given = _touched(manifest), {tensor.name for tensor in manifest.inputs}
    late: Counter[int] = Counter()
    for tensor in manifest.outputs:
        is_late = manifest.is_sized(tensor) and tensor.name not in given
        if is_late and tensor.nbytes >= OWN_PAGES_BYTES:
            block = touched[tensor.name][0]
            first = next((run.first for run in runs if run.first <= block <= run.last), block)
            late[first] += tensor.nbytes
    return late


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
    least = largest_sum(order)
    best, highest = _placed(order)
    for _ in range(_TURNS):
        if best.nbytes <= least or not highest:
            break
        order.insert(highest // 2, order.pop(highest))
        found, highest = _placed(order)
        best = min(best, found, key=lambda layout: layout.nbytes)
    return best


def largest_sum(intervals: Sequence[Interval]) -> int:
    """The largest sum of values that live at once."""
    changes: Counter[int] = Counter()
    for item in intervals:
        changes[2 * item.first] += item.nbytes
        changes[2 * item.last + 1] -= item.nbytes
    return max(accumulate(changes[when] for when in sorted(changes)), default=0)


def _placed(order: Sequence[Interval]) -> tuple[ValueLayout, int]:
    """The layout of values that are placed in turn, and the position of the one that ends last."""
    placed: list[tuple[int, int, int, int]] = []
    offsets: dict[str, int] = {}
    highest = nbytes = 0
    for position, item in enumerate(order):
        offset, (size, begins, ends) = 0, (item.nbytes, item.first, item.last)
        for start, end, first, last in placed:
            if first <= ends and begins <= last:
                if offset + size <= start:
                    break
                if offset < end:
                    offset = align_up(end, TENSOR_ALIGNMENT)
        offsets[item.name] = offset
        end = offset + size
        insort(placed, (offset, end, begins, ends))
        if end > nbytes:
            nbytes, highest = end, position
    return ValueLayout(offsets, nbytes), highest
