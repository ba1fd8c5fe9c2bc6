"""The plan for one budget: what is resident, where the rest lies in the ring, what is read when.

The order of blocks is cyclic and known, so every block keeps its address for as long as the plan
holds; swapping is nothing but reading bytes to that address.
"""

from __future__ import annotations

from dataclasses import dataclass

from swapnet.executor.planning.usage import Usage, page_table_bytes

__all__ = ["Place", "Plan", "PlanOptions", "Read", "Step"]


@dataclass(frozen=True)
class PlanOptions:
    """How to plan; the defaults are the fastest measured.

    Attributes
    ----------
    resident
        Keep what fits beside the ring in memory.
    cyclic
        Read the first blocks of the next inference during the last blocks of this one.
    merge
        Execute several blocks by one call where that is faster.
    reading_weight
        How much a millisecond of reading counts beside one of latency, though it may be hidden:
        other models wait for storage, and compute more slowly meanwhile.
    most_step_ms
        No longer call to the backend than that, unless one block takes longer: other models wait
        for its end. None for any.
    """

    resident: bool = True
    cyclic: bool = True
    merge: bool = True
    reading_weight: float = 0.0
    most_step_ms: float | None = None


@dataclass(frozen=True)
class Place:
    """Where a block's extent lies in the arena."""

    offset: int
    nbytes: int
    resident: bool


@dataclass(frozen=True)
class Read:
    """One request: bytes of a streamed block to its place.

    Attributes
    ----------
    block
        Index of the block.
    file_offset, arena_offset, nbytes
        From where, to where, how many bytes.
    after
        The step that must have ended before, because its blocks lie where this read goes; counted
        from the first step of the same inference, negative in the one before. What reads before
        this one wait for has ended too, and is not named again.
    """

    block: int
    file_offset: int
    arena_offset: int
    nbytes: int
    after: int


@dataclass(frozen=True)
class Step:
    """A segment: consecutive blocks executed by one call.

    Attributes
    ----------
    first, last
        Its blocks, both included.
    reads
        How many of an inference's reads must have arrived before it starts.
    """

    first: int
    last: int
    reads: int


@dataclass(frozen=True)
class Plan:
    """A placement and its predicted cost.

    Attributes
    ----------
    budget_bytes
        What was allowed.
    places
        By block; lookup blocks have an empty one.
    steps, reads
        Of one inference, in order.
    readers
        Requests in flight.
    request_bytes
        Size of one request, about; its limit on a GPU.
    shared_bytes, resident_bytes, ring_bytes
        Regions of the arena, in this order.
    usage
        Everything but weights.
    predicted_ms
        Steady-state latency.
    """

    budget_bytes: int
    places: tuple[Place, ...]
    steps: tuple[Step, ...]
    reads: tuple[Read, ...]
    readers: int
    request_bytes: int
    shared_bytes: int
    resident_bytes: int
    ring_bytes: int
    usage: Usage
    predicted_ms: float

    @property
    def arena_bytes(self) -> int:
        """All weights in memory at once."""
        return self.shared_bytes + self.ring_bytes + self.resident_bytes

    @property
    def streamed_bytes(self) -> int:
        """Bytes read in every inference."""
        return sum(read.nbytes for read in self.reads)

    @property
    def planned_bytes(self) -> int:
        """What the plan uses of its budget."""
        return self.arena_bytes + page_table_bytes(self.arena_bytes) + self.usage.total_bytes
