"""From a choice to an order: places of blocks, steps, and the step that each read waits for."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

from swapnet.executor.planning.shared import extents_of
from swapnet.manifest import Manifest

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
    """

    nbytes: tuple[int, ...]
    joinable: tuple[bool, ...]


@dataclass(frozen=True)
class Choice:
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


@dataclass(frozen=True)
class Flow:
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


@dataclass(frozen=True)
class Schedule:
    """The order of one inference.

    Attributes
    ----------
    offsets
        Offset of each block in the ring; None for blocks that are not streamed.
    spans
        First and last block of each step.
    flows
        Flows in the order of reading.
    """

    offsets: tuple[int | None, ...]
    spans: tuple[tuple[int, int], ...]
    flows: tuple[Flow, ...]

    @cached_property
    def needed(self) -> tuple[int, ...]:
        """Number of flows that must have arrived before each step starts."""
        blocks = [flow.block for flow in self.flows]
        return tuple(bisect_right(blocks, last) for _, last in self.spans)

    @property
    def ring_bytes(self) -> int:
        """Bytes of the ring that are used."""
        ends = ((self.offsets[f.block] or 0) + f.start + f.nbytes for f in self.flows)
        return max(ends, default=0)


def outline_of(manifest: Manifest, kept: Collection[int] = ()) -> Outline:
    """The outline of an engine's blocks; ``kept`` are shared weights that lie apart and stay."""
    blocks = manifest.blocks
    return Outline(
        nbytes=tuple(
            sum(extent.nbytes for extent in extents_of(manifest, block.index, kept))
            for block in blocks
        ),
        joinable=(
            False,
            *(
                block.is_graph
                and before.is_graph
                and block.weight_style == "external"
                and not (before.windows or block.windows)
                for before, block in pairwise(blocks)
            ),
        ),
    )


def schedule(outline: Outline, choice: Choice, *, cyclic: bool, least_bytes: int) -> Schedule:
    """Place the streamed blocks of a choice in the ring, in order, and find the waits of reads.

    Parameters
    ----------
    outline
        The blocks.
    choice
        The choice; the streamed blocks of each of its steps fit into its ring together.
    cyclic
        Bytes for the next inference may be read during this one.
    least_bytes
        Smallest flow: fewer bytes wait together with the bytes after them.
    """
    spans = tuple(_spans(outline, choice))
    step_of = [s for s, (first, last) in enumerate(spans) for _ in range(first, last + 1)]
    streamed = [b for b, n in enumerate(outline.nbytes) if n and b not in choice.resident]
    offsets = _offsets(outline, choice, spans)
    places = [(offsets[b] or 0, (offsets[b] or 0) + outline.nbytes[b]) for b in streamed]
    flows: list[Flow] = []
    recent: list[tuple[int, int, int]] = []
    for lap in (-1, 0):
        for block, (start, end) in zip(streamed, places, strict=True):
            under = _overwrite(recent, start, end)
            step = step_of[block]
            if lap == 0:
                earliest = step - len(spans) if cyclic else max(step - len(spans), -1)
                flows += _flows(block, start, end, under, earliest, least_bytes)
            recent.append((start, end, step + lap * len(spans)))
    return Schedule(tuple(offsets), spans, tuple(flows))


def _spans(outline: Outline, choice: Choice) -> Iterator[tuple[int, int]]:
    first = 0
    for block in range(1, len(outline.nbytes)):
        if not (block in choice.joined and outline.joinable[block]):
            yield first, block - 1
            first = block
    yield first, len(outline.nbytes) - 1


def _offsets(
    outline: Outline, choice: Choice, spans: Sequence[tuple[int, int]]
) -> list[int | None]:
    """Offsets in the ring, step after step; the blocks of a step lie together."""
    offsets: list[int | None] = [None] * len(outline.nbytes)
    cursor = 0
    for first, last in spans:
        streamed = [
            b for b in range(first, last + 1) if outline.nbytes[b] and b not in choice.resident
        ]
        if cursor + sum(outline.nbytes[b] for b in streamed) > choice.ring_bytes:
            cursor = 0
        for block in streamed:
            offsets[block] = cursor
            cursor += outline.nbytes[block]
    return offsets


def _overwrite(
    recent: list[tuple[int, int, int]], start: int, end: int
) -> list[tuple[int, int, int]]:
    """Remove the places under ``start`` to ``end``, and all older ones, from ``recent``."""
    # ``recent`` has the places (start, end, step) that were written last, oldest first. Steps end
    # in order and reads begin in order, so the wait for the newest overwritten step covers all
    # older places: no later read has to name them, and they go. The rest of an overwritten block
    # behind ``end`` returns as the oldest place. The next block in the ring overwrites it: its
    # first bytes wait for that step alone, and not for the step of the place behind the rest.
    under: list[tuple[int, int, int]] = []
    last = -1
    for index, place in enumerate(recent):
        if place[0] < end and start < place[1]:
            under.append(place)
            last = index
    del recent[: last + 1]
    recent[:0] = [(end, stop, step) for _, stop, step in under if stop > end]
    return sorted(under)


def _flows(
    block: int,
    start: int,
    end: int,
    under: Sequence[tuple[int, int, int]],
    earliest: int,
    least_bytes: int,
) -> Iterator[Flow]:
    """Parts of a block: bytes wait for the step under them, and for that of the bytes before."""
    begun = position = start
    after = earliest
    for _, stop, step in under:
        stop = min(stop, end)
        if step > after:
            if position - begun >= least_bytes:
                yield Flow(block, begun - start, position - begun, after)
                begun = position
            after = step
        position = max(position, stop)
    yield Flow(block, begun - start, end - begun, after)
