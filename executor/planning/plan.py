"""The plan for one budget: resident blocks, places of the others in the ring, order of reads.

The order of blocks is cyclic and known, so every block keeps its address for as long as the plan
holds. Swapping is reading bytes to that address.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from swapnet.executor.planning.usage import Usage, page_table_bytes
from swapnet.manifest import EXTENT_ALIGNMENT, Codec, Extent
from swapnet.strips import Striped, Striping
from swapnet.units import align_up

__all__ = ["Place", "Plan", "PlanOptions", "Read", "Step", "reads_of"]


@dataclass(frozen=True)
class PlanOptions:
    """Restrictions of a plan; the defaults are the fastest measured.

    Attributes
    ----------
    resident
        Keep blocks in memory where they fit beside the ring.
    cyclic
        Read the first blocks of the next inference during the last blocks of this one.
    merge
        Execute several blocks in one step where that is faster.
    reading_weight
        Weight of a millisecond of reading in units of latency, even where it is hidden: other
        models wait for storage, and compute more slowly meanwhile.
    most_step_ms
        Longest step in milliseconds, unless one block takes longer: other models wait for its end.
        None for no limit.
    strips
        Execute blocks in strips of rows where the budget asks for it; or in these, at any budget.
    least_scratch_bytes
        Limit of the arena at least: values whose size depends on data did not fit before.
    packed_bytes
        Most bytes of packed weights in a step of several blocks: all of them are in memory twice
        while its session is made. In one session a token of SmolLM2-135M in int4 took 3 to 7 % less
        of a processor.
    joined
        Joins of a plan before: blocks that are executed in one step with the block before them,
        where all of these steps fit and cost little. Else blocks with windows are executed apart.
        None for the fastest choice.
    """

    resident: bool = True
    cyclic: bool = True
    merge: bool = True
    reading_weight: float = 0.0
    most_step_ms: float | None = None
    strips: bool | Striping = True
    least_scratch_bytes: int = 0
    packed_bytes: int = 32 << 20
    joined: frozenset[int] | None = None


@dataclass(frozen=True)
class Place:
    """Place in the arena of extents that lie there one after the other.

    Attributes
    ----------
    offset
        Offset of the first byte.
    extents
        A block's own extent and what it shares, as far as that is not kept apart.
    resident
        True where the bytes stay.
    """

    offset: int
    extents: tuple[Extent, ...]
    resident: bool

    @property
    def nbytes(self) -> int:
        """Bytes of all extents."""
        return sum(extent.nbytes for extent in self.extents)

    def offsets(self) -> Iterator[tuple[Extent, int]]:
        """Each extent with its offset in the arena."""
        offset = self.offset
        for extent in self.extents:
            yield extent, offset
            offset += extent.nbytes


@dataclass(frozen=True)
class Read:
    """One request: bytes of a streamed block to its place.

    Attributes
    ----------
    block
        Index of the block.
    file_offset, arena_offset, nbytes
        Source in the weight file, destination in the arena, length there.
    after
        Step that must have ended before: its blocks lie where this read goes. Counted from the
        first step of the same inference, negative in the inference before. Steps that earlier
        reads wait for have ended too, and are not named again.
    codec, stored_bytes
        Form of the last bytes, as in `Extent`, and bytes to read.
    """

    block: int
    file_offset: int
    arena_offset: int
    nbytes: int
    after: int
    stored_bytes: int
    codec: Codec = "plain"


def reads_of(
    block: int, extent: Extent, offset: int, span: tuple[int, int], most_bytes: int, after: int
) -> Iterator[Read]:
    """Requests for a part of an extent.

    Parameters
    ----------
    block, after
        See `Read`.
    extent, offset
        The extent, and the place of the whole in the arena.
    span
        Start and stop of the part, counted in memory from the extent's start.
    most_bytes
        Upper limit of the bytes of one request in memory.
    """
    size = align_up(most_bytes, EXTENT_ALIGNMENT * (1 if extent.codec == "plain" else 2))
    for start in range(*span, size):
        stop = min(start + size, span[1])
        source = extent.file_offset(start)
        stored = extent.file_offset(stop) - source
        yield Read(block, source, offset + start, stop - start, after, stored, extent.codec)


@dataclass(frozen=True)
class Step:
    """The plan's unit of execution: consecutive blocks, executed by one call.

    The backend compiles each step to a `Segment`.

    Attributes
    ----------
    first, last
        First and last block, both included.
    reads
        Number of the inference's reads that must have arrived before the step starts.
    strips
        The strips of rows that it is executed in; None where it is executed whole.
    strip
        The one of these that it executes; None for all of them.
    """

    first: int
    last: int
    reads: int
    strips: Striped | None = None
    strip: int | None = None

    @property
    def is_last(self) -> bool:
        """Whether its blocks are not executed again in the same inference."""
        return self.strips is None or self.strip in (None, self.strips.count - 1)


@dataclass(frozen=True)
class Plan:
    """A placement and its predicted cost.

    Attributes
    ----------
    budget_bytes
        The budget that the plan was made for.
    places
        Place of each block; lookup blocks have an empty one.
    shared
        Place of each `Manifest.shared`: resident, or empty where each block has its own copy.
    steps, reads
        Steps and reads of one inference, in order.
    readers
        Number of requests in flight.
    request_bytes
        Approximate size of one request; its limit on a GPU.
    resident_bytes, ring_bytes
        Sizes of the arena's regions, in this order.
    usage
        Memory for everything but weights.
    predicted_ms
        Steady-state latency.
    striping
        The blocks that are executed in strips of rows; None where none are.
    """

    budget_bytes: int
    places: tuple[Place, ...]
    shared: tuple[Place, ...]
    steps: tuple[Step, ...]
    reads: tuple[Read, ...]
    readers: int
    request_bytes: int
    resident_bytes: int
    ring_bytes: int
    usage: Usage
    predicted_ms: float
    striping: Striping | None = None

    @property
    def residents(self) -> tuple[Place, ...]:
        """Places of blocks, then of shared weights; those that stay lie in the reverse order."""
        return (*self.places, *self.shared)

    @property
    def joined(self) -> frozenset[int]:
        """Blocks that are executed in one step with the block before them."""
        return frozenset(b for step in self.steps for b in range(step.first + 1, step.last + 1))

    @property
    def arena_bytes(self) -> int:
        """Size of the arena: all weights that are in memory at once."""
        return self.ring_bytes + self.resident_bytes

    @property
    def streamed_bytes(self) -> int:
        """Bytes read in every inference."""
        return sum(read.stored_bytes for read in self.reads)

    @property
    def planned_bytes(self) -> int:
        """Bytes of the budget that the plan uses."""
        return self.arena_bytes + page_table_bytes(self.arena_bytes) + self.usage.total_bytes
