"""From a choice to an order: places of blocks, steps, and the step that each read waits for."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

from swapnet.executor.planning.plan import PlanOptions
from swapnet.executor.planning.shared import extents_of
from swapnet.manifest import Manifest
from swapnet.strips import Striping

__all__ = ["Choice", "Flow", "Outline", "Schedule", "outline_of", "schedule"]


@dataclass(frozen=True)
class Outline:
    """An engine's blocks as planning sees them.

    Attributes
    ----------
    nbytes
        Bytes of each block that are swapped; 0 for lookups and blocks without weights.
    joinable
        For each block, True where it can be executed in one step with the block before it.
    bound
        Blocks that must be, and are joinable: those of a run in strips.
    apart
        First and last block, and number of strips, of runs that are executed strip by strip.
    """

    nbytes: tuple[int, ...]
    joinable: tuple[bool, ...]
    bound: frozenset[int] = frozenset()
    apart: tuple[tuple[int, int, int], ...] = ()

    def keeping(self, joined: frozenset[int]) -> Outline:
        """The outline where these blocks are joined to those before them, and no others."""
        joinable = tuple(block in joined for block in range(len(self.nbytes)))
        return replace(self, joinable=joinable, bound=joined)

    @property
    def least_ring_bytes(self) -> int:
        """Bytes of the largest step where only blocks that must be are joined."""
        largest = nbytes = 0
        for block, own in enumerate(self.nbytes):
            nbytes = own + (nbytes if block in self.bound else 0)
            largest = max(largest, nbytes)
        return largest

    @cached_property
    def order(self) -> tuple[int, ...]:
        """Blocks in the order of their execution; those of a run in strips once for each strip."""
        order = list(range(len(self.nbytes)))
        for first, last, count in reversed(self.apart):
            order[first : last + 1] = count * order[first : last + 1]
        return tuple(order)

    @cached_property
    def turns(self) -> tuple[tuple[int, int, bool, bool], ...]:
        """For each block in `order`: index, bytes, can it be joined, does a strip begin there."""
        # Each strip begins at the first byte, so a block has the same place in all of them.
        restarts = {first for first, *_ in self.apart}
        return tuple((b, self.nbytes[b], self.joinable[b], b in restarts) for b in self.order)


class Choice(NamedTuple):
    """Decisions of a plan.

    Attributes
    ----------
    resident
        Blocks that stay in memory.
    joined
        Blocks that are executed in one step with the block before them.
    ring_bytes
        Size of the ring, which all other blocks share.
    """

    resident: frozenset[int]
    joined: frozenset[int]
    ring_bytes: int


Placed = tuple[int, int, int, int]
"""A streamed block, first byte of its place in the ring, byte after it, and its step."""


class Schedule(NamedTuple):
    """The order of one inference, and how far reads are ahead of steps.

    Bytes are counted in the order of reading, from the first one of the inference on; those of the
    next inference follow.

    Attributes
    ----------
    placed
        Streamed blocks in order.
    spans
        First and last block of each step.
    needed
        Number of bytes that must have been read before each step starts.
    allowed
        Number of bytes that may be read before each step has ended: the others go to its places, or
        to those of later steps.
    lap_bytes
        Bytes of one inference.
    """

    placed: list[Placed]
    spans: list[tuple[int, int]]
    needed: list[int]
    allowed: list[int]
    lap_bytes: int

    @property
    def ring_bytes(self) -> int:
        """Bytes of the ring that are used."""
        return max((end for _, _, end, _ in self.placed), default=0)

    def flows(self) -> Iterator[Flow]:
        """Parts of each block in the order of reading, with the step that each waits for."""
        before = [limit - self.lap_bytes for limit in self.allowed]
        limits = [*before, *self.allowed]
        position = 0
        for block, start, end, _ in self.placed:
            stop = position + end - start
            begun = position
            while begun < stop:
                passed = bisect_right(limits, begun)
                part = min(stop, *limits[passed : passed + 1])
                yield Flow(block, begun - position, part - begun, passed - 1 - len(self.spans))
                begun = part
            position = stop


class Flow(NamedTuple):
    """Consecutive bytes of a streamed block that may be read from the same moment on.

    Attributes
    ----------
    block, start, nbytes
        The block, and the bytes of its place.
    after
        Step that must have ended before: its blocks lie where these bytes go. Counted from the
        first step of the same inference, negative in the inference before.
    """

    block: int
    start: int
    nbytes: int
    after: int


def outline_of(
    manifest: Manifest,
    kept: Collection[int] = (),
    striping: Striping | None = None,
    packed_bytes: int = PlanOptions.packed_bytes,
) -> Outline:
    """The outline of an engine's blocks.

    Parameters
    ----------
    manifest
        The engine.
    kept
        Shared weights that lie apart and stay.
    striping
        Blocks in strips.
    packed_bytes
        See `PlanOptions`.
    """
    runs = () if striping is None else striping.runs
    return Outline(
        bound=frozenset(
            b for run in runs if not run.apart for b in range(run.first + 1, run.last + 1)
        ),
        apart=tuple((run.first, run.last, run.count) for run in runs if run.apart),
        nbytes=tuple(
            sum(extent.nbytes for extent in extents_of(manifest, block.index, kept))
            for block in manifest.blocks
        ),
        joinable=tuple(_joinable(manifest, packed_bytes)),
    )


def _joinable(manifest: Manifest, packed_bytes: int) -> Iterator[bool]:
    is_graph = False
    nbytes = 0
    packed: set[str] = set()
    inputs: set[str] = set()
    for block in manifest.blocks:
        joins = is_graph and block.is_graph and block.weight_style == "external"
        is_graph = block.is_graph
        if manifest.has_windows:
            windows = {window.name for window in block.windows}
            weights = {weight.name for weight in manifest.weights_of(block.index)}
            if windows or packed:
                # A merged graph has one constant, or one input, of a name.
                joins = joins and not (windows & (packed | inputs) or weights & packed)
                joins = joins and nbytes + block.window_bytes <= packed_bytes
            if not joins:
                nbytes, packed, inputs = 0, set(), set()
            nbytes += block.window_bytes
            packed |= windows
            inputs |= weights
        yield joins


def schedule(outline: Outline, choice: Choice, *, cyclic: bool, least_bytes: int) -> Schedule:
    """Place the streamed blocks of a choice in the ring, in order, and find what reads wait for.

    Parameters
    ----------
    outline
        The blocks.
    choice
        The choice.
    cyclic
        Bytes for the next inference may be read during this one.
    least_bytes
        Smallest part of a block: fewer bytes wait together with the bytes after them.

    Raises
    ------
    ValueError
        The streamed blocks of a step do not fit into the ring together.
    """
    joined, resident = choice.joined, choice.resident
    placed: list[Placed] = []
    spans: list[tuple[int, int]] = []
    needed: list[int] = []
    cursor = lap_bytes = opened = 0
    step, start, last = -1, 0, 0
    for block, nbytes, can_join, restarts in outline.turns:
        if not (can_join and block in joined):
            if step >= 0:
                spans.append((start, last))
            step, start = step + 1, block
            needed.append(lap_bytes)
            opened = len(placed)
        last = block
        if restarts:
            cursor = 0
        if nbytes and block not in resident:
            if cursor + nbytes > choice.ring_bytes:
                # The blocks of a step lie together: its first ones go to the beginning as well.
                first = placed[opened][1] if opened < len(placed) else cursor
                placed[opened:] = [
                    (b, s - first, e - first, step) for b, s, e, _ in placed[opened:]
                ]
                cursor -= first
                if cursor + nbytes > choice.ring_bytes:
                    raise ValueError(f"step {step} does not fit into {choice.ring_bytes} bytes")
            placed.append((block, cursor, cursor + nbytes, step))
            cursor += nbytes
            lap_bytes += nbytes
            needed[step] = lap_bytes
    spans.append((start, last))
    allowed = _allowed(placed, len(spans), lap_bytes, least_bytes)
    if not cyclic:
        allowed = [min(limit, lap_bytes) for limit in allowed]
    return Schedule(placed, spans, needed, allowed, lap_bytes)


def _allowed(placed: Sequence[Placed], count: int, lap_bytes: int, least_bytes: int) -> list[int]:
    """Number of bytes that may be read before each step has ended."""
    # Each pass through the ring begins at its first byte and overwrites the places of the pass
    # before, ``old``: the first byte and the number of each step. Steps end in order and reads
    # begin in order, so the wait for the newest overwritten step covers all older places: those
    # that a short pass does not reach are covered by the first byte of the next. Where a block
    # overwrites places of two steps, its first bytes wait for the first step only, if they are
    # enough.
    allowed = [-1] * count
    last = max((i for i, place in enumerate(placed) if place[1] == 0), default=0)
    # The first pass overwrites the last one of the inference before, whose bytes come an inference
    # earlier: it is ``ahead`` of those steps.
    old: list[tuple[int, int]] = []
    fresh = _starts(placed[last:])
    head = position = ahead = 0
    for _, start, end, of in placed:
        if start == 0:
            for _, step in old[head:]:
                allowed[step] = ahead + position
            old, fresh, head = fresh, [], 0
            ahead = 0 if position else lap_bytes
        if not fresh or fresh[-1][1] != of:
            fresh.append((start, of))
        begun = start
        while head < len(old) and old[head][0] < end:
            offset, step = old[head]
            if offset - begun >= least_bytes:
                begun = offset
            allowed[step] = ahead + position + begun - start
            head += 1
        position += end - start
    for _, step in old[head:]:
        allowed[step] = ahead + position
    following = lap_bytes + (allowed[placed[0][3]] if placed else 0)
    for step in range(count - 1, -1, -1):
        if allowed[step] < 0:
            allowed[step] = following
        following = allowed[step]
    return allowed


def _starts(placed: Sequence[Placed]) -> list[tuple[int, int]]:
    """First byte and number of each step."""
    starts: dict[int, int] = {}
    for _, start, _, step in placed:
        starts.setdefault(step, start)
    return [(start, step) for step, start in starts.items()]
