"""Make a plan of manifest, delays and budget: a pure function, without input or output."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate
from math import ceil, inf

from swapnet.errors import BudgetError
from swapnet.executor.planning.plan import Place, Plan, PlanOptions, Read, Step, reads_of
from swapnet.executor.planning.schedule import Choice, Flow, Outline, outline_of, schedule
from swapnet.executor.planning.search import ALIKE, Candidate, Planner, parted
from swapnet.executor.planning.shared import extents_of, kept_choices
from swapnet.executor.planning.timeline import Delays, predict
from swapnet.executor.planning.usage import (
    Usage,
    demand,
    least_bytes,
    least_weights_bytes,
    mappable_bytes,
    page_table_bytes,
    scratch_within,
    smallest_striping,
    usage,
)
from swapnet.manifest import Block, Manifest
from swapnet.profile import Profile
from swapnet.strips import Striped, Striping
from swapnet.units import format_size, told_apart

__all__ = ["make_plan", "most_scratch_bytes", "smallest_budget"]

_PROMISING = 1.05
"""A search is carried on where its start is within this factor of the best start."""

_KEPT = 1.2
"""Steps of a plan before are kept where that is predicted to take at most this factor. Without any
joins, tokens of SmolLM2-135M in int4 take at most 1.15 times as long."""

_WEIGHTS = "weights of the largest block take"


def smallest_budget(manifest: Manifest) -> tuple[int, str]:
    """The smallest possible budget in bytes, and its largest part in words."""
    used = usage(manifest, smallest_striping(manifest))
    largest, streamed = _largest(manifest)
    smallest = demand(manifest).smallest_bytes
    widest = max(manifest.blocks, key=lambda b: b.activation_bytes)
    parts = {
        _WEIGHTS: streamed,
        f"activations, most of them in block {widest.index} ({widest.operators[0]} …), take": (
            used.activation_bytes
        ),
        "inputs and outputs take": used.io_bytes,
        "loaded skeletons, kernels and readers take": used.process_bytes,
        "staging of looked-up rows and copies takes": used.staging_bytes,
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
    """The plan with the lowest predicted latency found; of equally fast ones, the least reading.

    Parameters
    ----------
    manifest, profile
        The engine and its delays.
    budget_bytes
        All bytes that the model may use.
    options
        Restrictions of the plan.

    Raises
    ------
    BudgetError
        The budget is below `smallest_budget`, or that of the options.
    """
    options = options or PlanOptions()
    searches: list[_Search] = []
    for striping, used, nbytes in _ways(manifest, options):
        if nbytes <= budget_bytes:
            available = mappable_bytes(budget_bytes - used.total_bytes)
            best_ms = min((start.cost_ms for *_, start in searches), default=inf)
            runs = () if striping is None else striping.runs
            delays = Delays(profile, manifest.coded_share, runs)
            # All blocks in one step, beside no read, are a lower bound.
            if delays.step(0, len(manifest.blocks) - 1)[0] <= ALIKE * best_ms:
                searches += _searches(manifest, profile, available, options, striping, used, delays)
            # More strips than needed only cost time.
            if striping is not None or not searches[-1][-1].streamed_bytes:
                break
    if not searches:
        smallest = min(nbytes for *_, nbytes in _ways(manifest, options))
        _, reason = smallest_budget(manifest)
        size, needed = told_apart(budget_bytes, smallest)
        raise BudgetError(
            f"{manifest.source.name} does not fit in {size}",
            why=f"it needs {smallest} bytes, the budget allows {budget_bytes}; {reason}",
            hint=f"give at least {needed}{_other_way(manifest, reason)}",
            smallest_bytes=smallest,
        )
    best_ms = min(start.cost_ms for *_, start in searches)
    kept = [search for search in searches if search[3].outline.bound == options.joined]
    if options.joined and any(start.cost_ms <= _KEPT * best_ms for *_, start in kept):
        searches = kept
    most_ms = _PROMISING * min(start.cost_ms for *_, start in searches)
    found = [(s, s[3].best()) for s in searches if s[-1].cost_ms <= most_ms]
    most_ms = ALIKE * min(best.cost_ms for _, best in found)
    alike = [each for each in found if each[1].cost_ms <= most_ms]
    search, best = min(alike, key=lambda each: each[1].streamed_bytes)
    return _plan(manifest, profile, budget_bytes, options, search, best.choice)


def _ways(manifest: Manifest, options: PlanOptions) -> Iterator[tuple[Striping | None, Usage, int]]:
    """Ways to execute the blocks, from whole to most strips, and the memory that each needs."""
    strips = options.strips
    whole_or_not = (None, *(manifest.stripings if strips else ()))
    for striping in (strips,) if isinstance(strips, Striping) else whole_or_not:
        used = _with_scratch(usage(manifest, striping), options.least_scratch_bytes)
        yield striping, used, used.total_bytes + least_weights_bytes(manifest, striping)


_Search = tuple[Striping | None, Usage, frozenset[int], Planner, Candidate]
"""Search of a way to execute the blocks, beside shared weights that stay, and its best start."""


def _plan(
    manifest: Manifest,
    profile: Profile,
    budget_bytes: int,
    options: PlanOptions,
    search: _Search,
    choice: Choice,
) -> Plan:
    request_bytes = profile.storage.request_bytes
    striping, used, kept, planner, _ = search
    runs = () if striping is None else striping.runs
    if options.most_step_ms is not None:
        choice = parted(choice, planner.outline, planner.delays, options.most_step_ms)
    order = schedule(planner.outline, choice, cyclic=options.cyclic, least_bytes=request_bytes // 2)
    offsets = {block: start for block, start, _, _ in order.placed}
    places, shared = _places(manifest, offsets, kept)
    reads = tuple(_reads(manifest, places, order.flows(), request_bytes))
    ends = [*accumulate(read.nbytes for read in reads)]
    counts = (bisect_right(ends, needed) for needed in order.needed)
    steps = tuple(_steps(order.spans, counts, runs))
    return Plan(
        budget_bytes=budget_bytes,
        places=places,
        shared=shared,
        steps=steps,
        reads=reads,
        readers=_readers(profile, reads, order.ring_bytes),
        request_bytes=request_bytes,
        ring_bytes=order.ring_bytes,
        resident_bytes=sum(place.nbytes for place in (*places, *shared) if place.resident),
        usage=used,
        predicted_ms=predict(steps, reads, profile).steady_ms,
        striping=striping,
    )


def _readers(profile: Profile, reads: Sequence[Read], ring_bytes: int) -> int:
    """Readers whose requests leave half of the ring: reads beside each other end together.

    Where they fill the ring, steps and reads take turns.
    """
    largest = max((read.nbytes for read in reads), default=1)
    return max(min(profile.storage.readers, ring_bytes // (2 * largest)), 1)


def _steps(
    spans: Iterable[tuple[int, int]], reads: Iterable[int], runs: Iterable[Striped]
) -> Iterator[Step]:
    run_of = {block: run for run in runs for block in range(run.first, run.last + 1)}
    strips: Counter[Striped] = Counter()
    for (first, last), count in zip(spans, reads, strict=True):
        run = run_of.get(first)
        if run is None or not run.apart:
            yield Step(first, last, count, run)
        else:
            strips[run] += first == run.first
            yield Step(first, last, count, run, strips[run] - 1)


def _with_scratch(used: Usage, least_bytes: int) -> Usage:
    added = max(least_bytes - used.scratch_bytes, 0)
    return replace(
        used,
        scratch_bytes=used.scratch_bytes + added,
        staging_bytes=used.staging_bytes + page_table_bytes(added),
    )


def most_scratch_bytes(manifest: Manifest, budget_bytes: int) -> int:
    """Largest limit of the arena with which a plan for this budget is possible."""
    striping = smallest_striping(manifest)
    spare = budget_bytes - least_bytes(manifest, striping)
    return usage(manifest, striping).scratch_bytes + scratch_within(spare)


def _searches(
    manifest: Manifest,
    profile: Profile,
    available: int,
    options: PlanOptions,
    striping: Striping | None,
    used: Usage,
    delays: Delays,
) -> Iterator[_Search]:
    """A search for each choice of shared weights that stay, or the first that reads nothing."""
    rooms = [
        (kept, available - sum(manifest.shared[i].extent.nbytes for i in kept))
        for kept in (kept_choices(manifest, available) if options.resident else (frozenset[int](),))
    ]

    def outlines(packed_bytes: int) -> list[tuple[frozenset[int], int, Outline]]:
        # Sessions pack weights in memory that the arena has not taken yet.
        return [
            (kept, room, outline_of(manifest, kept, striping, min(packed_bytes, room // 2)))
            for kept, room in rooms
        ]

    # Trying joins costs effort: without those of windows the search sometimes finds a better plan.
    choices = outlines(0)
    if options.joined is None and striping is None:
        choices = [*dict.fromkeys((*outlines(options.packed_bytes), *choices))]
    elif options.joined and striping is None:
        given = [(kept, room, each.keeping(options.joined)) for kept, room, each in choices]
        choices = [*(each for each in given if each[2].least_ring_bytes <= each[1]), *choices]
    for kept, room, outline in choices:
        planner = Planner(
            outline,
            delays,
            room,
            cyclic=options.cyclic,
            least_bytes=profile.storage.request_bytes // 2,
            reading_weight=options.reading_weight,
            resident=options.resident,
            join=options.merge and striping is None,
        )
        start = planner.start()
        yield striping, used, kept, planner, start
        if not start.streamed_bytes:
            return


def _largest(manifest: Manifest) -> tuple[Block, int]:
    """The block with most weights, and their bytes."""
    pairs = zip(manifest.blocks, manifest.block_bytes, strict=True)
    return max(pairs, key=lambda pair: pair[1])


def _other_way(manifest: Manifest, reason: str) -> str:
    """What else helps where weights set the smallest budget."""
    if not reason.startswith(_WEIGHTS):
        return ""
    largest, nbytes = _largest(manifest)
    # Blocks are a little larger than asked for by alignment alone, not twice as large.
    if nbytes > 2 * manifest.max_block_bytes:
        return f": {largest.operators[0]} can't be cut into smaller blocks"
    return ", or build with a smaller --max-block"


def _places(
    manifest: Manifest, offsets: Mapping[int, int], kept: Collection[int]
) -> tuple[tuple[Place, ...], tuple[Place, ...]]:
    """Places in the arena of blocks and of shared weights: what stays, the last first; the ring."""
    # The last blocks have most bytes for their time and stay with most budgets. What lies before
    # them would move them with each change of the budget.
    lying = [extents_of(manifest, block.index, kept) for block in manifest.blocks]
    lying += [(e.extent,) if i in kept else () for i, e in enumerate(manifest.shared)]
    stays = [block.index not in offsets for block in manifest.blocks]
    stays += [index in kept for index in range(len(manifest.shared))]
    places = [Place(0, extents, resident=stay) for extents, stay in zip(lying, stays, strict=True)]
    end = 0
    for position in reversed(range(len(places))):
        if stays[position]:
            places[position] = replace(places[position], offset=end)
            end += places[position].nbytes
    for block, offset in offsets.items():
        places[block] = replace(places[block], offset=end + offset)
    return tuple(places[: len(manifest.blocks)]), tuple(places[len(manifest.blocks) :])


def _reads(
    manifest: Manifest,
    places: Sequence[Place],
    flows: Iterable[Flow],
    request_bytes: int,
) -> Iterator[Read]:
    """Requests of equal size for each flow: about ``request_bytes``, on a GPU at most."""
    rounded = ceil if manifest.runs_on_gpu else round
    for flow in flows:
        first = places[flow.block].offset + flow.start
        for extent, offset in places[flow.block].offsets():
            begin = max(first - offset, 0)
            end = max(min(first + flow.nbytes - offset, extent.nbytes), begin)
            stored = extent.file_offset(end) - extent.file_offset(begin)
            pieces = max(rounded(stored / request_bytes), 1)
            most_bytes = max(-(-(end - begin) // pieces), 1)
            yield from reads_of(flow.block, extent, offset, (begin, end), most_bytes, flow.after)
