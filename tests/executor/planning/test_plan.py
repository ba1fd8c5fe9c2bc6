from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from itertools import pairwise

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swapnet.errors import BudgetError
from swapnet.executor.planning.plan import Place, Plan, PlanOptions
from swapnet.executor.planning.planner import make_plan, smallest_budget
from swapnet.executor.planning.schedule import outline_of
from swapnet.executor.planning.usage import demand, packing, usage
from swapnet.manifest import Extent, Manifest, Shared, Window
from swapnet.profile import Profile, assumed_profile
from swapnet.shapes import SessionMemory
from swapnet.strips import Striping
from tests.helpers.engines import BuildToy, Engine
from tests.helpers.profiles import delays

PAGE = 4096
MakeManifest = Callable[..., Manifest]
Drawn = tuple[list[int], list[int], float, PlanOptions, Profile, Sequence[tuple[int, set[int]]]]


@st.composite
def planned(draw: st.DrawFn) -> Drawn:
    """Sizes of blocks, lookups, the share of the way to everything, options, delays, sharing."""
    sizes = draw(st.lists(st.integers(1, 9 * PAGE), min_size=1, max_size=9))
    lookups = draw(st.lists(st.integers(0, len(sizes) - 1), max_size=2))
    share = draw(st.floats(0, 1))
    options = PlanOptions(
        resident=draw(st.booleans()),
        cyclic=draw(st.booleans()),
        merge=draw(st.booleans()),
        reading_weight=draw(st.sampled_from([0.0, 0.5, 10.0])),
        most_step_ms=draw(st.sampled_from([None, 0.0, 0.5])),
    )
    times = st.floats(0, 1)
    request_bytes = draw(st.sampled_from([PAGE, 3 * PAGE, 64 * PAGE]))
    blocks = [(ms, ms) for ms in (draw(times) for _ in sizes)]
    profile = delays(None, blocks, bytes_per_s=1e8, request_bytes=request_bytes)
    several = st.sets(st.integers(0, len(sizes) - 1), min_size=2)
    shared = st.lists(st.tuples(st.integers(1, 5), several), max_size=3)
    return sizes, lookups, share, options, profile, draw(shared) if len(sizes) > 1 else []


def sharing(manifest: Manifest, shared: Sequence[tuple[int, set[int]]]) -> Manifest:
    """The manifest with weights of some pages that blocks of operators share."""
    found: list[Shared] = []
    offset = manifest.weights_nbytes
    for count, blocks in shared:
        users = tuple(sorted(b for b in blocks if manifest.blocks[b].is_graph))
        if users:
            found.append(Shared(Extent(offset, count * PAGE), "", (), users))
            offset += count * PAGE
    return msgspec.structs.replace(manifest, shared=tuple(found), weights_nbytes=offset)


def plan_for(manifest: Manifest, share: float, options: PlanOptions, profile: Profile) -> Plan:
    smallest, _ = smallest_budget(manifest)
    everything = max(demand(manifest).total_bytes, smallest)
    budget = smallest + int(share * (everything - smallest))
    plan = make_plan(manifest, profile, budget, options)
    assert make_plan(manifest, profile, budget, options) == plan
    assert plan.planned_bytes <= budget
    return plan


def pages(offset: int, nbytes: int) -> range:
    return range(offset // PAGE, -(-(offset + nbytes) // PAGE))


def pages_of(place: Place) -> list[int]:
    """Pages of the weight file that lie in a place."""
    return [page for extent in place.extents for page in pages(extent.offset, extent.nbytes)]


def assert_runs(manifest: Manifest, plan: Plan) -> None:
    """Three inferences with a reader that reads each request as early as it may."""
    memory: dict[int, int] = {}
    reads = [(read, lap) for lap in range(3) for read in plan.reads]
    done = ended = 0
    for lap in range(3):
        for step in plan.steps:
            while done < len(reads):
                read, read_lap = reads[done]
                if ended <= read_lap * len(plan.steps) + read.after:
                    break
                places = pages(read.arena_offset, read.nbytes)
                memory |= dict(zip(places, pages(read.file_offset, read.nbytes), strict=True))
                done += 1
            assert done >= lap * len(plan.reads) + step.reads, "the reader waits for this step"
            for block in manifest.blocks[step.first : step.last + 1]:
                place = plan.places[block.index]
                if not place.resident:
                    found = [memory[page] for page in pages(place.offset, place.nbytes)]
                    assert found == pages_of(place)
            ended += 1


@settings(max_examples=100, deadline=None)
@given(drawn=planned())
def test_plans_keep_every_promise(simulated_manifest: MakeManifest, drawn: Drawn) -> None:
    sizes, lookups, share, options, profile, shared = drawn
    manifest = sharing(simulated_manifest(sizes, lookups), shared)
    plan = plan_for(manifest, share, options, profile)
    assert_runs(manifest, plan)
    assert_read_once(plan)
    assert_placed(manifest, plan)
    assert_steps(manifest, plan)


def assert_read_once(plan: Plan) -> None:
    streamed = [place for place in plan.places if not place.resident]
    expected = [page for place in streamed for page in pages_of(place)]
    found = [page for read in plan.reads for page in pages(read.file_offset, read.nbytes)]
    assert found == expected
    assert plan.streamed_bytes == sum(place.nbytes for place in streamed)


def assert_placed(manifest: Manifest, plan: Plan) -> None:
    residents = [place for place in plan.residents[::-1] if place.resident and place.nbytes]
    ends = [0, *(place.offset + place.nbytes for place in residents)]
    assert [place.offset for place in residents] == ends[:-1]
    ring = plan.resident_bytes
    assert ends[-1] == ring == plan.arena_bytes - plan.ring_bytes
    apart = {extent for place in plan.shared for extent in place.extents}
    for block, place in zip(manifest.blocks, plan.places, strict=True):
        used = {block.extent, *(each.extent for each in manifest.shared_with(block.index))}
        assert {*place.extents} == (used - apart if block.is_graph else set())
        assert place.resident or (
            ring <= place.offset <= place.offset + place.nbytes <= plan.arena_bytes
        )


def assert_steps(manifest: Manifest, plan: Plan) -> None:
    assert [plan.steps[0].first, plan.steps[-1].last] == [0, len(manifest.blocks) - 1]
    assert all(a.last + 1 == b.first and a.reads <= b.reads for a, b in pairwise(plan.steps))
    assert plan.steps[-1].reads == len(plan.reads)
    for step in plan.steps:
        kinds = {block.kind for block in manifest.blocks[step.first : step.last + 1]}
        assert len(kinds) == 1
        assert kinds == {"graph"} or step.first == step.last


def test_everything_resident_is_one_segment(simulated_manifest: MakeManifest) -> None:
    manifest = simulated_manifest([PAGE] * 5)
    plan = make_plan(manifest, assumed_profile(manifest), 1 << 30)
    assert [(step.first, step.last) for step in plan.steps] == [(0, 4)]
    assert (plan.ring_bytes, plan.reads) == (0, ())
    plan = make_plan(manifest, assumed_profile(manifest), 1 << 30, PlanOptions(merge=False))
    assert len(plan.steps) == 5


def test_what_fits_is_not_streamed(simulated_manifest: MakeManifest) -> None:
    manifest = simulated_manifest([9 * PAGE, PAGE, 5 * PAGE, 7 * PAGE, 2 * PAGE, 4 * PAGE])
    everything = demand(manifest).total_bytes
    budgets = (smallest_budget(manifest)[0], everything - PAGE, everything)
    plans = [make_plan(manifest, assumed_profile(manifest), budget) for budget in budgets]
    first, middle, last = (plan.streamed_bytes for plan in plans)
    assert first > middle > last == 0
    assert plans[0].predicted_ms > plans[2].predicted_ms


@pytest.mark.parametrize("most_ms", [0.0, 2.5, 5.0, 100.0])
def test_no_step_is_longer_than_it_may_be(simulated_manifest: MakeManifest, most_ms: float) -> None:
    """Calls cost more than what a plan gains from reading in between, so plans would join all."""
    manifest = simulated_manifest([PAGE] * 8)
    profile = delays(manifest, [(1.0, 1.0)] * 8, step_ms=0.5)
    budget = demand(manifest).total_bytes
    free = make_plan(manifest, profile, budget)
    plan = make_plan(manifest, profile, budget, PlanOptions(most_step_ms=most_ms))
    lengths = [step.last - step.first + 1 for step in plan.steps]
    assert max(lengths) == min(max(int(most_ms - 0.5), 1), 8)
    assert sum(lengths) == 8
    assert len(free.steps) == 1
    assert plan.predicted_ms == pytest.approx(8 + 0.5 * len(plan.steps))
    assert (plan.resident_bytes, plan.arena_bytes) == (free.resident_bytes, free.arena_bytes)


def test_too_small_names_the_smallest_and_the_block(simulated_manifest: MakeManifest) -> None:
    manifest = simulated_manifest([PAGE, 300 * PAGE, PAGE])
    smallest, _ = smallest_budget(manifest)
    profile: Profile = assumed_profile(manifest)
    assert make_plan(manifest, profile, smallest).planned_bytes == smallest
    with pytest.raises(BudgetError, match="does not fit") as caught:
        make_plan(manifest, profile, smallest - 1)
    assert caught.value.smallest_bytes == smallest
    assert f"it needs {smallest} bytes, the budget allows {smallest - 1}" in caught.value.why
    assert "the largest block is 1 (Simulated …) with 1.2MiB of weights" in caught.value.why
    assert "--max-block" not in caught.value.hint


def test_what_sets_the_smallest_is_the_largest_part(
    simulated_manifest: MakeManifest, engine: BuildToy
) -> None:
    _, reason = smallest_budget(engine("only-lookup").manifest)
    assert reason.startswith("loaded skeletons, kernels and readers take")
    manifest = simulated_manifest([PAGE, 3000 * PAGE])
    assert smallest_budget(manifest)[1].startswith("weights of the largest block take 11.7MiB")
    wide = msgspec.structs.replace(manifest.blocks[0], activation_bytes=20 << 20)
    manifest = msgspec.structs.replace(manifest, blocks=(wide, manifest.blocks[1]))
    assert smallest_budget(manifest)[1].startswith("activations, most of them in block 0")


@pytest.mark.parametrize(
    ("sizes", "limit_bytes", "advice"),
    [
        ([PAGE, 3000 * PAGE], 3000 * PAGE, "or build with a smaller --max-block"),
        ([PAGE, 3000 * PAGE], 1000 * PAGE, "Simulated can't be cut into smaller blocks"),
        ([PAGE, PAGE], PAGE, ""),
    ],
)
def test_advice_is_for_what_sets_the_smallest_budget(
    simulated_manifest: MakeManifest, sizes: list[int], limit_bytes: int, advice: str
) -> None:
    manifest = msgspec.structs.replace(simulated_manifest(sizes), max_block_bytes=limit_bytes)
    smallest, _ = smallest_budget(manifest)
    with pytest.raises(BudgetError) as caught:
        make_plan(manifest, assumed_profile(manifest), smallest - 1)
    assert caught.value.hint.startswith("give at least ")
    assert caught.value.hint.endswith(advice or "MiB")


def test_the_hint_is_enough(small_zoo: Engine) -> None:
    manifest = small_zoo.manifest
    with pytest.raises(BudgetError) as caught:
        make_plan(manifest, assumed_profile(manifest), 1)
    assert caught.value.smallest_bytes == small_zoo.smallest
    hinted = float(caught.value.hint.split("MiB")[0].split()[-1])
    make_plan(manifest, assumed_profile(manifest), int(hinted * (1 << 20)))


def test_the_rest_is_the_same_for_every_budget(engine: BuildToy) -> None:
    toy = engine("used-twice")
    profile = assumed_profile(toy.manifest)
    budgets: Sequence[int] = (toy.smallest, toy.demand)
    small, large = (make_plan(toy.manifest, profile, budget) for budget in budgets)
    assert small.usage == large.usage == usage(toy.manifest)


def test_shared_weights_are_read_with_each_block_or_kept_once(engine: BuildToy) -> None:
    toy = engine("used-twice")
    profile = assumed_profile(toy.manifest)
    (shared,) = toy.manifest.shared
    assert shared.extent.nbytes == 64 * 64 * 4
    small, large = (make_plan(toy.manifest, profile, b) for b in (toy.smallest, toy.demand))
    read = Counter(read.file_offset for read in small.reads)
    assert read[shared.extent.offset] == len(shared.blocks) == 3
    assert not small.shared[0].resident
    assert large.shared[0].extents == (shared.extent,)
    assert large.resident_bytes == toy.manifest.swappable_bytes


@pytest.mark.parametrize(("request_pages", "readers"), [(1, 3), (2, 3), (4, 1), (64, 1)])
def test_requests_in_flight_leave_room_for_others_in_the_ring(
    simulated_manifest: MakeManifest, request_pages: int, readers: int
) -> None:
    profile = delays(None, [(1.0, 1.0)] * 6, bytes_per_s=1e8, request_bytes=request_pages * PAGE)
    storage = msgspec.structs.replace(profile.storage, readers=3)
    profile = msgspec.structs.replace(profile, storage=storage)
    manifest = simulated_manifest([4 * PAGE] * 6)
    smallest, _ = smallest_budget(manifest)
    options = PlanOptions(resident=False)
    plan = make_plan(manifest, profile, smallest + 12 * PAGE, options)
    assert plan.readers == readers
    largest = max(read.nbytes for read in plan.reads)
    assert plan.readers == 1 or 2 * plan.readers * largest <= plan.ring_bytes


def with_windows(manifest: Manifest, blocks: Sequence[int], names: Sequence[str]) -> Manifest:
    """These blocks read all of their weights in a window."""
    named = dict(zip(blocks, names, strict=True))
    changed = (
        msgspec.structs.replace(
            block,
            weights=(),
            windows=(Window(named[block.index], block.extent.offset, block.extent.nbytes),),
        )
        if block.index in named
        else block
        for block in manifest.blocks
    )
    return msgspec.structs.replace(manifest, blocks=tuple(changed))


def spans(plan: Plan) -> list[tuple[int, int]]:
    return [(step.first, step.last) for step in plan.steps]


def test_a_step_packs_no_more_than_it_may(simulated_manifest: MakeManifest) -> None:
    manifest = with_windows(simulated_manifest([PAGE] * 7), range(6), "abcdef")
    profile = assumed_profile(manifest)
    for nbytes, steps in (
        (0, [(n, n) for n in range(7)]),
        (2 * PAGE, [(0, 1), (2, 3), (4, 6)]),
        (9 * PAGE, [(0, 2), (3, 6)]),  # of half of the memory
    ):
        plan = make_plan(manifest, profile, 1 << 30, PlanOptions(packed_bytes=nbytes))
        if nbytes < 9 * PAGE:
            assert spans(plan) == steps
        least = make_plan(
            manifest, profile, demand(manifest).total_bytes, PlanOptions(packed_bytes=nbytes)
        )
        assert spans(least) == steps
    assert packing(manifest, plan.joined).transient_bytes == 12 * PAGE
    assert packing(manifest).transient_bytes == 2 * PAGE
    assert packing(manifest).read_bytes == 6 * PAGE


def test_a_name_is_packed_in_one_block_of_a_step(simulated_manifest: MakeManifest) -> None:
    manifest = simulated_manifest([PAGE] * 5)
    bound = manifest.blocks[3].weights[0].name
    manifest = with_windows(manifest, (0, 1, 2, 4), ("a", "b", "a", bound))
    assert outline_of(manifest).joinable == (False, True, False, True, False)


def test_steps_with_windows_are_kept_where_it_costs_little(
    simulated_manifest: MakeManifest,
) -> None:
    manifest = with_windows(simulated_manifest([4 * PAGE] * 6), range(6), "abcdef")
    profile = delays(manifest, [(1.0, 1.0)] * 6, step_ms=0.5, bytes_per_s=1e9)
    smallest, everything = smallest_budget(manifest)[0], demand(manifest).total_bytes
    free = make_plan(manifest, profile, everything)
    assert spans(free) == [(0, 2), (3, 5)]
    options = PlanOptions(joined=free.joined)
    for budget in (everything, everything - 4 * PAGE):
        assert spans(make_plan(manifest, profile, budget, options)) == spans(free)
    # Two blocks fit: three do not.
    parted = make_plan(manifest, profile, smallest + 5 * PAGE, options)
    assert all(first == last for first, last in spans(parted))
    slow = delays(manifest, [(1.0, 1.0)] * 6, step_ms=0.01, bytes_per_s=4 * PAGE * 1e3)
    middle = smallest + 9 * PAGE
    assert make_plan(manifest, slow, middle, options).joined < free.joined
    assert make_plan(manifest, slow, everything, PlanOptions(joined=frozenset())).joined == set()


def test_no_step_is_kept_beside_strips(simulated_manifest: MakeManifest) -> None:
    """Pages are given back between two steps that would be one."""
    manifest = msgspec.structs.replace(
        with_windows(simulated_manifest([PAGE] * 6), range(6), "abcdef"),
        session_memory=SessionMemory(64 * PAGE),
        stripings=(Striping((), PAGE, late_from=4),),
    )
    budget = smallest_budget(manifest)[0] + 8 * PAGE
    options = PlanOptions(joined=frozenset({1, 2, 4, 5}))
    plan = make_plan(manifest, assumed_profile(manifest), budget, options)
    assert plan.striping is not None
    assert spans(plan) == [(block, block) for block in range(6)]
    whole = make_plan(manifest, assumed_profile(manifest), 1 << 30, options)
    assert spans(whole) == [(0, 2), (3, 5)]
