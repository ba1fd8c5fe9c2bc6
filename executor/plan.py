"""The plan for one budget: what is resident, where the rest lies in the ring, what is read when.

A plan is a pure function of the manifest, the profile and the budget. The order of blocks is
cyclic and known, so every block keeps its address for as long as the plan holds; swapping is
nothing but reading bytes to that address.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from swapnet.errors import BudgetError
from swapnet.executor.memory import READ_BYTES, Usage, mappable_bytes, page_table_bytes, usage
from swapnet.executor.timeline import simulate
from swapnet.manifest import EXTENT_ALIGNMENT, Block, Manifest
from swapnet.profile import Profile
from swapnet.units import align_up, format_size

__all__ = ["Place", "Plan", "PlanOptions", "Read", "Step", "make_plan", "smallest_budget"]


_ALIKE = 1.01
"""Predictions this close are the same: the plan that reads least is taken."""


@dataclass(frozen=True)
class PlanOptions:
    """How to plan; the defaults are the fastest measured.

    Attributes
    ----------
    read_bytes
        One request to storage; a block is read in equal requests of about this size.
    resident
        Keep what fits beside the ring in memory.
    cyclic
        Read the first blocks of the next inference during the last blocks of this one.
    merge
        Execute consecutive resident blocks by one call.
    """

    read_bytes: int = READ_BYTES
    resident: bool = True
    cyclic: bool = True
    merge: bool = True


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
        The step that must have ended before, because its blocks lie where this read goes;
        counted from the first step of the same inference, negative in the one before.
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
    shared_bytes, ring_bytes, resident_bytes
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
    shared_bytes: int
    ring_bytes: int
    resident_bytes: int
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


@dataclass(frozen=True)
class _Choice:
    """Which blocks stay, and how large the ring is."""

    resident: frozenset[int]
    ring_bytes: int


def smallest_budget(manifest: Manifest) -> tuple[int, str]:
    """The smallest budget in bytes that works, and what sets it."""
    used = usage(manifest)
    largest = max(manifest.blocks, key=lambda b: b.extent.nbytes * b.is_graph)
    streamed = largest.extent.nbytes * largest.is_graph
    arena = manifest.shared_extent.nbytes + streamed
    smallest = used.total_bytes + arena + page_table_bytes(arena)
    widest = max(manifest.blocks, key=lambda b: b.activation_bytes)
    parts = {
        "weights of the largest block take": streamed,
        f"activations, most of them in block {widest.index} ({widest.operators[0]} …), take": (
            used.activation_bytes
        ),
        "weights that several blocks share take": manifest.shared_extent.nbytes,
        "inputs and outputs take": used.io_bytes,
        "loaded skeletons take": used.skeleton_bytes,
        "readers and bookkeeping take": used.staging_bytes,
    }
    name, nbytes = max(parts.items(), key=lambda part: part[1])
    reason = (
        f"{name} {format_size(nbytes)}; the largest block is {largest.index} "
        f"({largest.operators[0]} …) with {format_size(streamed)} of weights"
    )
    return smallest, reason


def make_plan(
    manifest: Manifest,
    profile: Profile,
    budget_bytes: int,
    options: PlanOptions | None = None,
) -> Plan:
    """The placement with the lowest predicted latency among those tried, reading the least.

    Tried are ring sizes from the smallest possible to all that the budget leaves, residents
    chosen in several orders, and segments with and without the resident blocks that follow.

    Parameters
    ----------
    manifest, profile
        The engine and its delays.
    budget_bytes
        All bytes that the model may use.
    options
        How to plan.

    Raises
    ------
    BudgetError
        The budget is below the smallest that works.
    """
    options = options or PlanOptions()
    used = usage(manifest)
    smallest, reason = smallest_budget(manifest)
    if budget_bytes < smallest:
        raise BudgetError(
            f"{manifest.source.name} does not fit in {format_size(budget_bytes)}",
            why=f"it needs {smallest} bytes, the budget allows {budget_bytes}; {reason}",
            hint=f"give at least {_rounded_up(smallest)}, or build with a smaller --max-block if "
            "weights set it",
            smallest_bytes=smallest,
        )
    arena = mappable_bytes(budget_bytes - used.total_bytes)
    available = arena - manifest.shared_extent.nbytes
    plans = [
        _place(manifest, profile, budget_bytes, used, choice, join, options)
        for choice in dict.fromkeys(_choices(manifest, profile, available, options))
        for join in ((False, True) if choice.resident and choice.ring_bytes else (True,))
    ]
    fastest = min(plan.predicted_ms for plan in plans)
    alike = [plan for plan in plans if plan.predicted_ms <= fastest * _ALIKE]
    return min(alike, key=lambda plan: (plan.streamed_bytes, plan.predicted_ms, plan.ring_bytes))


def _rounded_up(nbytes: int) -> str:
    return f"{-(-nbytes * 10 // (1 << 20)) / 10:g}MiB"


def _choices(
    manifest: Manifest, profile: Profile, available: int, options: PlanOptions
) -> Iterator[_Choice]:
    blocks = [b for b in manifest.blocks if b.is_graph]
    if sum(b.extent.nbytes for b in blocks) <= available:
        yield _Choice(frozenset(b.index for b in blocks), 0)
        return
    if not options.resident:
        yield _Choice(frozenset(), available)
        return
    sizes = sorted({b.extent.nbytes for b in blocks})
    rings = {available * share // 16 // 4096 * 4096 for share in range(1, 17)}
    rings |= {factor * sizes[-1] for factor in (1, 2, 3, 4)}
    for ring in sorted(r for r in rings if sizes[0] <= r <= available):
        forced = [b for b in blocks if b.extent.nbytes > ring]
        room = available - ring - sum(b.extent.nbytes for b in forced)
        if room < 0:
            continue
        optional = [b for b in blocks if b.extent.nbytes <= ring]
        for order in _ORDERS:
            resident = {b.index for b in forced}
            left = room
            for block in order(optional, profile, room):
                if block.extent.nbytes <= left:
                    resident.add(block.index)
                    left -= block.extent.nbytes
            yield _Choice(frozenset(resident), ring)


def _evenly_in_time(blocks: Sequence[Block], profile: Profile, room: int) -> list[Block]:
    """Residents such that streamed bytes grow in proportion to time."""
    total_ms = sum(profile.block_ms[b.index] for b in blocks) or 1.0
    streamed = sum(b.extent.nbytes for b in blocks) - room
    elapsed = read = 0.0
    chosen: list[Block] = []
    others: list[Block] = []
    for block in blocks:
        elapsed += profile.block_ms[block.index]
        if read + block.extent.nbytes / 2 > streamed * elapsed / total_ms:
            chosen.append(block)
        else:
            others.append(block)
            read += block.extent.nbytes
    return chosen + others


def _every_nth(blocks: Sequence[Block], profile: Profile, room: int) -> list[Block]:
    """Residents spread evenly over bytes."""
    del profile
    total = sum(b.extent.nbytes for b in blocks)
    seen = kept = 0
    chosen: list[Block] = []
    others: list[Block] = []
    for block in blocks:
        seen += block.extent.nbytes
        if kept + block.extent.nbytes <= room * seen / total:
            chosen.append(block)
            kept += block.extent.nbytes
        else:
            others.append(block)
    return chosen + others


def _first(blocks: Sequence[Block], profile: Profile, room: int) -> list[Block]:
    del profile, room
    return list(blocks)


def _last(blocks: Sequence[Block], profile: Profile, room: int) -> list[Block]:
    del profile, room
    return list(reversed(blocks))


_ORDERS: tuple[Callable[[Sequence[Block], Profile, int], list[Block]], ...] = (
    _evenly_in_time,
    _every_nth,
    _first,
    _last,
)


def _place(
    manifest: Manifest,
    profile: Profile,
    budget_bytes: int,
    used: Usage,
    choice: _Choice,
    join: bool,
    options: PlanOptions,
) -> Plan:
    shared = manifest.shared_extent.nbytes
    places = _places(manifest, choice, shared)
    spans = (
        list(_spans(manifest, choice.resident, join))
        if options.merge
        else [(block.index, block.index) for block in manifest.blocks]
    )
    step_of = {b: s for s, (first, last) in enumerate(spans) for b in range(first, last + 1)}
    reads = tuple(_reads(manifest, places, step_of, len(spans), options))
    arrived = 0
    steps = []
    for first, last in spans:
        arrived += sum(first <= read.block <= last for read in reads)
        steps.append(Step(first, last, arrived))
    plan = Plan(
        budget_bytes=budget_bytes,
        places=places,
        steps=tuple(steps),
        reads=reads,
        shared_bytes=shared,
        ring_bytes=choice.ring_bytes,
        resident_bytes=sum(p.nbytes for p in places if p.resident),
        usage=used,
        predicted_ms=0.0,
    )
    return replace(plan, predicted_ms=simulate(plan.steps, plan.reads, profile).steady_ms)


def _places(manifest: Manifest, choice: _Choice, shared: int) -> tuple[Place, ...]:
    cursor = 0
    fixed = shared + choice.ring_bytes
    places: list[Place] = []
    for block in manifest.blocks:
        nbytes = block.extent.nbytes if block.is_graph else 0
        if block.index in choice.resident or not nbytes:
            places.append(Place(fixed, nbytes, resident=True))
            fixed += nbytes
        else:
            if cursor + nbytes > choice.ring_bytes:
                cursor = 0
            places.append(Place(shared + cursor, nbytes, resident=False))
            cursor += nbytes
    return tuple(places)


def _spans(manifest: Manifest, resident: frozenset[int], join: bool) -> Iterator[tuple[int, int]]:
    """Segments: consecutive resident blocks, after the streamed one before them if ``join``."""
    first = 0
    for block in manifest.blocks[1:]:
        previous = manifest.blocks[block.index - 1]
        mergeable = block.is_graph and previous.is_graph and block.weight_style == "external"
        streamed = block.index not in resident and block.extent.nbytes
        if not mergeable or streamed or (previous.index not in resident and not join):
            yield first, previous.index
            first = block.index
    yield first, len(manifest.blocks) - 1


def _reads(
    manifest: Manifest,
    places: Sequence[Place],
    step_of: dict[int, int],
    steps: int,
    options: PlanOptions,
) -> Iterator[Read]:
    streamed = [b for b in manifest.blocks if not places[b.index].resident]
    for order, block in enumerate(streamed):
        place = places[block.index]
        pieces = max(1, round(place.nbytes / options.read_bytes))
        piece = align_up(-(-place.nbytes // pieces), EXTENT_ALIGNMENT)
        for start in range(0, place.nbytes, piece):
            nbytes = min(piece, place.nbytes - start)
            begin = place.offset + start
            after = step_of[block.index] - steps
            for position, other in enumerate(streamed):
                there = places[other.index]
                if there.offset < begin + nbytes and begin < there.offset + there.nbytes:
                    lap = 0 if position < order else steps
                    after = max(after, step_of[other.index] - lap)
            if not options.cyclic:
                after = max(after, -1)
            yield Read(block.index, block.extent.offset + start, begin, nbytes, after)
