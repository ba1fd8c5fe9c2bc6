"""Make a plan of manifest, delays and budget: a pure function, without input or output."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from math import ceil

from swapnet.errors import BudgetError
from swapnet.executor.planning.admission import rounded_up
from swapnet.executor.planning.plan import Place, Plan, PlanOptions, Read, Step
from swapnet.executor.planning.schedule import Flow, outline_of, schedule
from swapnet.executor.planning.search import Planner, parted
from swapnet.executor.planning.timeline import Delays, predict
from swapnet.executor.planning.usage import (
    Usage,
    demand,
    least_weights_bytes,
    mappable_bytes,
    page_table_bytes,
    scratch_within,
    usage,
)
from swapnet.manifest import EXTENT_ALIGNMENT, Manifest
from swapnet.profile import Profile
from swapnet.units import align_up, format_size

__all__ = ["make_plan", "most_scratch_bytes", "smallest_budget"]

_WEIGHTS = "weights of the largest block take"


def smallest_budget(manifest: Manifest) -> tuple[int, str]:
    """The smallest possible budget in bytes, and its largest part in words."""
    used = usage(manifest, merged=False)
    largest = max(manifest.blocks, key=lambda b: b.swapped_bytes)
    streamed = largest.swapped_bytes
    smallest = demand(manifest).smallest_bytes
    widest = max(manifest.blocks, key=lambda b: b.activation_bytes)
    parts = {
        _WEIGHTS: streamed,
        f"activations, most of them in block {widest.index} ({widest.operators[0]} …), take": (
            used.activation_bytes
        ),
        "weights that several blocks share take": manifest.shared_extent.nbytes,
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
    usages = tuple(_usages(manifest, options))
    smallest = min(used.total_bytes for _, used in usages) + least_weights_bytes(manifest)
    if budget_bytes < smallest:
        _, reason = smallest_budget(manifest)
        raise BudgetError(
            f"{manifest.source.name} does not fit in {format_size(budget_bytes)}",
            why=f"it needs {smallest} bytes, the budget allows {budget_bytes}; {reason}",
            hint=f"give at least {rounded_up(smallest)}{_other_way(manifest, reason)}",
            smallest_bytes=smallest,
        )
    plans: list[Plan] = []
    for merge, used in usages:
        if budget_bytes >= used.total_bytes + least_weights_bytes(manifest):
            plan = _plan(manifest, profile, budget_bytes, replace(options, merge=merge), used)
            if not plan.reads:
                return plan
            plans.append(plan)
    return min(plans, key=lambda plan: plan.predicted_ms)


def _usages(manifest: Manifest, options: PlanOptions) -> Iterator[tuple[bool, Usage]]:
    """Ways to group blocks into steps, and what each takes beside the weights.

    One block in a step needs the smallest arena, where that of several is larger.
    """
    merged, apart = (
        _with_scratch(usage(manifest, merged=merge), options.least_scratch_bytes)
        for merge in (True, False)
    )
    if options.merge:
        yield True, merged
    if not options.merge or apart != merged:
        yield False, apart


def _with_scratch(used: Usage, least_bytes: int) -> Usage:
    added = max(least_bytes - used.scratch_bytes, 0)
    return replace(
        used,
        scratch_bytes=used.scratch_bytes + added,
        staging_bytes=used.staging_bytes + page_table_bytes(added),
    )


def most_scratch_bytes(manifest: Manifest, budget_bytes: int) -> int:
    """Largest limit of the arena with which a plan for this budget is possible."""
    used = usage(manifest, merged=False)
    spare = budget_bytes - used.total_bytes - least_weights_bytes(manifest)
    return used.scratch_bytes + scratch_within(spare)


def _plan(
    manifest: Manifest, profile: Profile, budget_bytes: int, options: PlanOptions, used: Usage
) -> Plan:
    request_bytes = profile.storage.request_bytes
    available = mappable_bytes(budget_bytes - used.total_bytes) - manifest.shared_extent.nbytes
    outline = outline_of(manifest)
    planner = Planner(
        outline,
        Delays(profile),
        available,
        cyclic=options.cyclic,
        least_bytes=request_bytes // 2,
        reading_weight=options.reading_weight,
    )
    choice = planner.best(resident=options.resident, join=options.merge).choice
    if options.most_step_ms is not None:
        choice = parted(choice, outline, Delays(profile), options.most_step_ms)
    order = schedule(outline, choice, cyclic=options.cyclic, least_bytes=request_bytes // 2)
    places = _places(manifest, {block: start for block, start, _, _ in order.placed})
    reads = tuple(_reads(manifest, places, order.flows(), request_bytes))
    blocks = [read.block for read in reads]
    steps = tuple(Step(first, last, bisect_right(blocks, last)) for first, last in order.spans)
    return Plan(
        budget_bytes=budget_bytes,
        places=places,
        steps=steps,
        reads=reads,
        readers=profile.storage.readers,
        request_bytes=request_bytes,
        shared_bytes=manifest.shared_extent.nbytes,
        ring_bytes=order.ring_bytes,
        resident_bytes=sum(place.nbytes for place in places if place.resident),
        usage=used,
        predicted_ms=predict(steps, reads, profile).steady_ms,
    )


def _other_way(manifest: Manifest, reason: str) -> str:
    """What else helps where weights set the smallest budget."""
    if not reason.startswith(_WEIGHTS):
        return ""
    largest = max(manifest.blocks, key=lambda b: b.swapped_bytes)
    # Blocks are a little larger than asked for by alignment alone, not twice as large.
    if largest.swapped_bytes > 2 * manifest.max_block_bytes:
        return f": {largest.operators[0]} can't be cut into smaller blocks"
    return ", or build with a smaller --max-block"


def _places(manifest: Manifest, offsets: Mapping[int, int]) -> tuple[Place, ...]:
    """Places in the arena: first shared weights, then resident blocks, then the ring."""
    resident = manifest.shared_extent.nbytes
    ring = resident + sum(b.swapped_bytes for b in manifest.blocks if b.index not in offsets)
    places: list[Place] = []
    for block in manifest.blocks:
        nbytes = block.swapped_bytes
        if block.index in offsets:
            places.append(Place(ring + offsets[block.index], nbytes, resident=False))
        else:
            places.append(Place(resident, nbytes, resident=True))
            resident += nbytes
    return tuple(places)


def _reads(
    manifest: Manifest,
    places: Sequence[Place],
    flows: Iterable[Flow],
    request_bytes: int,
) -> Iterator[Read]:
    """Requests of equal size for each flow: about ``request_bytes``, on a GPU at most."""
    rounded = ceil if manifest.runs_on_gpu else round
    for flow in flows:
        pieces = rounded(flow.nbytes / request_bytes)
        piece = align_up(-(-flow.nbytes // max(pieces, 1)), EXTENT_ALIGNMENT)
        extent = manifest.blocks[flow.block].extent
        for start in range(0, flow.nbytes, piece):
            begin = flow.start + start
            yield Read(
                flow.block,
                extent.offset + begin,
                places[flow.block].offset + begin,
                min(piece, flow.nbytes - start),
                flow.after,
            )
