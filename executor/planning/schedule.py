"""From a choice to an order: where blocks lie, what is executed together, what waits for what."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

from swapnet.manifest import Manifest

__all__ = ["Choice", "Flow", "Outline", "Schedule", "outline_of", "schedule"]


@dataclass(frozen=True)
class Outline:
    """What planning has to know of an engine's blocks.

    Attributes
    ----------
    nbytes
        By block: extent that is swapped; 0 for lookups and blocks without weights.
    joinable
        By block: whether it can be executed in one call with the block before it.
    """

    nbytes: tuple[int, ...]
    joinable: tuple[bool, ...]


@dataclass(frozen=True)
class Choice:
    """What a plan decides.

    Attributes
    ----------
    resident
        Blocks that stay in memory.
    joined
        Blocks that are executed in one call with the block before them.
    ring_bytes
        Memory that the others share.
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
        Which bytes of its extent.
    after
        The step that must have ended before, because its blocks lie where these bytes go;
        counted from the first step of the same inference, negative in the one before.
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
        By block, in the ring; None for those that are not streamed.
    spans
        First and last block of each step.
    flows
        In the order of reading.
    """

    offsets: tuple[int | None, ...]
    spans: tuple[tuple[int, int], ...]
    flows: tuple[Flow, ...]

    @cached_property
    def needed(self) -> tuple[int, ...]:
        """By step: how many flows must have arrived before it starts."""
        counts = []
        arrived = 0
        for _, last in self.spans:
            while arrived < len(self.flows) and self.flows[arrived].block <= last:
                arrived += 1
            counts.append(arrived)
        return tuple(counts)

    @property
    def ring_bytes(self) -> int:
        """What of the ring is used."""
        ends = [offset for offset in self.offsets if offset is not None]
        return (
            max((self.offsets[f.block] or 0) + f.start + f.nbytes for f in self.flows)
            if ends
            else 0
        )


def outline_of(manifest: Manifest) -> Outline:
    """The outline of an engine."""
    blocks = manifest.blocks
    return Outline(
        nbytes=tuple(b.swapped_bytes for b in blocks),
        joinable=(
            False,
            *(
                block.is_graph and before.is_graph and block.weight_style == "external"
                for before, block in pairwise(blocks)
            ),
        ),
    )


def schedule(outline: Outline, choice: Choice, *, cyclic: bool, least_bytes: int) -> Schedule:
    """Place the streamed blocks of a choice in the ring, in order, and find what waits for what.

    Parameters
    ----------
    outline
        The blocks.
    choice
        The streamed blocks of each of its steps fit into its ring together.
    cyclic
        Bytes for the next inference may be read during this one.
    least_bytes
        Bytes that would make a smaller request wait with those after them.
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
    """One step after the other around the ring; the blocks of a step lie together."""
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
    """Take what lies under ``start`` to ``end``, and all that is older, out of ``recent``."""
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
    """Bytes wait for what lies under them, and for what the bytes before them wait for."""
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
