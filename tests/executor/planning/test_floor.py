"""The bound that knows the memory, against every schedule of machines that are small enough."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate, chain, combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swapnet.executor.planning.floor import cycle_floor_ms, floor_ms
from swapnet.executor.planning.planner import make_plan, smallest_budget
from swapnet.executor.planning.schedule import Choice, Outline, schedule
from swapnet.executor.planning.timeline import Delays, simulate
from swapnet.executor.planning.usage import demand
from swapnet.manifest import Extent, Manifest
from tests.helpers.profiles import delays

PAGE = 4096
LAPS = 6
Held = tuple[int, ...]
Moment = tuple[int, int, Held]
"""Steps that have ended, milliseconds left of the one that runs, units of each part in memory."""


def extents_of(sizes: Sequence[int]) -> list[Extent]:
    return [Extent(index * PAGE**2, nbytes) for index, nbytes in enumerate(sizes)]


def apart(sizes: Sequence[int]) -> list[list[Extent]]:
    """Steps that share nothing."""
    return [[extent] for extent in extents_of(sizes)]


def fastest_ms(parts: Sequence[int], used: Sequence[set[int]], ms: Sequence[int], room: int) -> int:
    """Least time of `LAPS` laps of any machine that reads a unit in a millisecond, and drops any.

    A step runs while all units of the parts that it uses are in memory.
    """
    seen: set[Moment] = set()
    now: set[Moment] = {(0, 0, (0,) * len(parts))}
    for time in range(1000):
        now = set(chain.from_iterable(begun(moment, parts, used, ms) for moment in now)) - seen
        if any(steps >= LAPS * len(ms) for steps, _, _ in now):
            return time
        seen |= now
        now = {after for moment in now for after in a_millisecond(moment, parts, used, room)}
    raise AssertionError("the machine waits for ever")


def begun(
    moment: Moment, parts: Sequence[int], used: Sequence[set[int]], ms: Sequence[int]
) -> Iterator[Moment]:
    """The moment, and those after steps that can begin; those of no duration end at once."""
    steps, left, held = moment
    yield moment
    step = steps % len(ms)
    while not left and all(held[p] == parts[p] for p in used[step]):
        if ms[step]:
            yield steps, ms[step], held
            return
        steps += 1
        step = steps % len(ms)
        yield steps, 0, held
        if steps > LAPS * len(ms):
            return


def a_millisecond(
    moment: Moment, parts: Sequence[int], used: Sequence[set[int]], room: int
) -> Iterator[Moment]:
    """Moments a millisecond later: a unit may be read, in the place of another if need be."""
    steps, left, held = moment
    kept = used[steps % len(used)] if left else set()
    steps, left = (steps + 1, 0) if left == 1 else (steps, max(left - 1, 0))
    yield steps, left, held
    for read in range(len(parts)):
        if held[read] == parts[read]:
            continue
        more = tuple(n + (p == read) for p, n in enumerate(held))
        if sum(more) <= room:
            yield steps, left, more
            continue
        for dropped in range(len(parts)):
            if dropped not in kept | {read} and held[dropped]:
                yield steps, left, tuple(n - (p == dropped) for p, n in enumerate(more))


@st.composite
def machines(draw: st.DrawFn) -> tuple[list[int], list[set[int]], list[int], int]:
    count = draw(st.integers(1, 3))
    parts = draw(st.lists(st.integers(1, 2), min_size=count, max_size=count))
    used = [{index} for index in range(count)]
    if count > 1 and draw(st.booleans()):
        parts.append(1)
        for users in draw(st.sets(st.integers(0, count - 1), min_size=2)):
            used[users].add(count)
    ms = draw(st.lists(st.integers(0, 3), min_size=count, max_size=count))
    least = max(sum(parts[p] for p in each) for each in used)
    return parts, used, ms, draw(st.integers(least, sum(parts)))


@settings(max_examples=60, deadline=None)
@given(machine=machines())
def test_no_machine_is_faster(
    machine: tuple[list[int], list[set[int]], list[int], int],
) -> None:
    parts, used, ms, room = machine
    extents = extents_of(parts)
    floor = cycle_floor_ms([[extents[p] for p in each] for each in used], ms, room, 1.0)
    assert fastest_ms(parts, used, ms, room) >= (LAPS - 1) * floor - 1e-9
    assert floor >= max(sum(ms), sum(parts) - room)


def subsets(items: Sequence[int]) -> Iterator[frozenset[int]]:
    each = (combinations(items, count) for count in range(len(items) + 1))
    return map(frozenset, chain.from_iterable(each))


@settings(max_examples=60, deadline=None)
@given(
    blocks=st.lists(st.tuples(st.integers(1, 40), st.floats(0, 2)), min_size=1, max_size=4),
    share=st.floats(0, 1),
)
def test_no_choice_of_a_plan_is_faster(blocks: list[tuple[int, float]], share: float) -> None:
    sizes = [pages * PAGE for pages, _ in blocks]
    room = max(sizes) + int(share * (sum(sizes) - max(sizes))) // PAGE * PAGE
    outline = Outline(tuple(sizes), (False, *(True for _ in sizes[1:])))
    times = Delays(delays(None, [(ms, ms) for _, ms in blocks], bytes_per_s=1e8))
    idle = [ms for _, ms in blocks]
    floor = cycle_floor_ms(apart(sizes), idle, room, times.ms_per_byte)
    for resident in subsets(range(len(sizes))):
        left = room - sum(sizes[b] for b in resident)
        streamed = [sizes[b] for b in range(len(sizes)) if b not in resident]
        for ring in {left, *accumulate(streamed)}:
            if max(streamed, default=0) <= ring <= left:
                choice = Choice(resident, frozenset(), ring)
                order = schedule(outline, choice, cyclic=True, least_bytes=PAGE)
                assert simulate(order, times).steady_ms >= floor * (1 - 1e-6)


def test_bytes_after_a_long_computation_do_not_fit_before_it_ends() -> None:
    """As in VGG: convolutions without weights for 90 ms, then 50 MB of products in 1 ms each."""
    needed, ms = apart([0, *[10] * 5]), [90.0, *[1.0] * 5]
    found = cycle_floor_ms(needed, ms, 20, 2.0)
    # When the first product ends, 30 of 50 can't be in memory; the last computes afterwards.
    assert found == 90 + 1 + 30 * 2 + 1
    assert cycle_floor_ms(needed, ms, 50, 2.0) == 95


def test_what_is_read_in_a_pause_does_not_count() -> None:
    three = apart([10, 10, 10]), [0.0, 0.0, 5.0], 20, 1.0
    assert cycle_floor_ms(*three) == 15
    assert cycle_floor_ms(*three, ahead_bytes=5) == 15  # from the first to the last
    other = apart([10, 10, 10]), [0.0, 5.0, 0.0], 20, 1.0
    assert [cycle_floor_ms(*other, ahead_bytes=n) for n in (0, 5, 10)] == [15, 10, 10]


def test_a_shared_part_is_read_once() -> None:
    assert cycle_floor_ms(apart([10] * 4), [0.0] * 4, 20, 1.0) == 20
    assert cycle_floor_ms([[Extent(0, 10)]] * 4, [0.0] * 4, 10, 1.0) == 0


def test_half_as_many_bytes_are_read_of_what_is_stored_so() -> None:
    halves = [[Extent(index * PAGE, 20, "float16", 10)] for index in range(3)]
    assert cycle_floor_ms(halves, [0.0] * 3, 20, 1.0) == 20
    assert cycle_floor_ms([*halves[:1], *apart([0, 20, 20])[1:]], [0.0] * 3, 20, 1.0) == 30


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_a_plan_is_above_its_floor_and_that_above_other_bounds(
    simulated_manifest: Callable[..., Manifest], share: float
) -> None:
    manifest = simulated_manifest([3 * PAGE, PAGE, 5 * PAGE, 2 * PAGE])
    profile = delays(None, [(0.1, 0.1)] * 4, bytes_per_s=1e8)
    smallest, _ = smallest_budget(manifest)
    budget = smallest + int(share * (demand(manifest).total_bytes - smallest))
    plan = make_plan(manifest, profile, budget)
    found = floor_ms(manifest, plan, profile)
    assert max(0.4, plan.streamed_bytes / 1e5) <= found <= plan.predicted_ms
    assert floor_ms(manifest, plan, profile, execution_ms=100.0) >= 100
