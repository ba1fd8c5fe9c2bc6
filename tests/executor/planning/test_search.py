"""The search against every possible choice, on instances small enough to try them all."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate, chain, combinations, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swapnet.executor.planning.schedule import Choice, Outline, Schedule, schedule
from swapnet.executor.planning.search import Candidate, Planner, parted
from swapnet.executor.planning.timeline import Delays, simulate
from tests.helpers.profiles import delays

PAGE = 4096


def subsets(items: range) -> Iterator[frozenset[int]]:
    return map(
        frozenset, chain.from_iterable(combinations(items, n) for n in range(len(items) + 1))
    )


def latency(outline: Outline, choice: Choice, times: Delays) -> float:
    order = schedule(outline, choice, cyclic=True, least_bytes=PAGE)
    return simulate(order, times).steady_ms


def optimum(outline: Outline, times: Delays, available: int) -> float:
    """The lowest latency of all residents, groupings and rings."""
    count = len(outline.nbytes)
    best = float("inf")
    for resident in subsets(range(count)):
        room = available - sum(outline.nbytes[b] for b in resident)
        streamed = [b for b in range(count) if b not in resident]
        ends = list(accumulate(outline.nbytes[b] for b in streamed))
        sums = {b - a for a, b in combinations([0, *ends], 2)}
        for joined in subsets(range(1, count)):
            starts = [b for b in range(count) if b not in joined]
            steps = zip(starts, [*starts[1:], count], strict=True)
            largest = max(sum(outline.nbytes[b] for b in range(*s) if b in streamed) for s in steps)
            for ring in {room, *sums}:
                if largest <= ring <= room:
                    best = min(best, latency(outline, Choice(resident, joined, ring), times))
    return best


@settings(max_examples=40, deadline=None)
@given(
    blocks=st.lists(
        st.tuples(st.integers(1, 40), st.floats(0.02, 2), st.floats(1, 1.3)),
        min_size=1,
        max_size=4,
    ),
    share=st.floats(0, 1),
    bytes_per_s=st.floats(2e7, 4e8),
    busy=st.floats(0.7, 1),
    step_ms=st.floats(0, 0.2),
    latency_ms=st.sampled_from([0, 0.1]),
)
def test_is_within_a_hundredth_of_the_optimum(
    blocks: list[tuple[int, float, float]],
    share: float,
    bytes_per_s: float,
    busy: float,
    step_ms: float,
    latency_ms: float,
) -> None:
    outline = Outline(
        tuple(pages * PAGE for pages, _, _ in blocks),
        (False, *(True for _ in blocks[1:])),
    )
    least, most = max(outline.nbytes), sum(outline.nbytes)
    available = (least + int(share * (most - least))) // PAGE * PAGE
    times = Delays(
        delays(
            None,
            [(ms, ms * slower) for _, ms, slower in blocks],
            step_ms=step_ms,
            latency_ms=latency_ms,
            bytes_per_s=bytes_per_s,
            busy_bytes_per_s=bytes_per_s * busy,
        )
    )
    planner = Planner(outline, times, available, cyclic=True, least_bytes=PAGE)
    found = planner.best()
    assert found.steady_ms == latency(outline, found.choice, times)
    assert found.steady_ms <= 1.01 * optimum(outline, times, available)


def test_effort_is_bounded() -> None:
    """Three hundred blocks; events are counted, for a time would depend on the machine."""
    sizes = [(7919 * i % 1000 + 1) * PAGE for i in range(300)]
    outline = Outline(tuple(sizes), (False, *(True for _ in sizes[1:])))
    times = Delays(delays(None, [(0.1 + i % 7, 0.2 + i % 7) for i in range(300)], bytes_per_s=1e9))
    planner, other = (
        Planner(
            outline,
            times,
            sum(sizes) // 4,
            cyclic=True,
            least_bytes=1 << 20,
            resident=resident,
        )
        for resident in (True, False)
    )
    found = planner.best()
    assert planner.simulated_events <= 1.1 * Planner.EFFORT
    assert found.steady_ms < other.best().steady_ms


def test_effort_is_bounded_where_hardly_any_choice_fits() -> None:
    outline = Outline((PAGE,) * 100, (False, *(True,) * 99))
    times = Delays(delays(None, [(1.0, 1.1)] * 100, bytes_per_s=1e9, step_ms=0.1))
    planner = Planner(outline, times, PAGE, cyclic=True, least_bytes=PAGE)
    planner.best()
    assert planner.simulated_events <= 1.1 * Planner.EFFORT


@pytest.mark.parametrize("share", [0.15, 0.4, 0.75])
@pytest.mark.parametrize("bytes_per_s", [4e8, 1.5e9])
def test_a_search_of_ten_times_the_effort_finds_hardly_anything_faster(
    share: float, bytes_per_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a residual network, bytes of a block grow and its time does not."""
    sizes = [(40 + 7919 * i % 97) * (1 + i // 16) * PAGE for i in range(48)]
    outline = Outline(tuple(sizes), (False, *(True for _ in sizes[1:])))
    profile = delays(
        None,
        [(0.4 + i % 5 / 4, 0.44 + i % 5 / 4) for i in range(48)],
        step_ms=0.05,
        bytes_per_s=bytes_per_s,
    )

    def found_ms() -> float:
        available = int(share * sum(sizes))
        return (
            Planner(outline, Delays(profile), available, cyclic=True, least_bytes=1 << 20)
            .best()
            .steady_ms
        )

    quick_ms = found_ms()
    monkeypatch.setattr(Planner, "EFFORT", 10 * Planner.EFFORT)
    monkeypatch.setattr(Planner, "EFFORT_PER_BLOCK", Planner.EFFORT)
    assert quick_ms <= 1.02 * found_ms()


@given(
    times=st.lists(st.floats(0, 4), min_size=1, max_size=9),
    joined=st.frozensets(st.integers(1, 8)),
    most_ms=st.floats(0, 9),
    step_ms=st.floats(0, 1),
)
def test_steps_are_parted_no_more_than_they_must(
    times: list[float], joined: frozenset[int], most_ms: float, step_ms: float
) -> None:
    count = len(times)
    joined = frozenset(block for block in joined if block < count)
    choice = Choice(frozenset({0}), joined, 9 * PAGE)
    outline = Outline((PAGE,) * count, (False, *(True,) * (count - 1)))
    measured = Delays(delays(None, [(ms, ms) for ms in times], step_ms=step_ms))
    found = parted(choice, outline, measured, most_ms)
    assert found.joined <= joined
    assert (found.resident, found.ring_bytes) == (choice.resident, choice.ring_bytes)
    starts = [block for block in range(count) if block not in found.joined]
    for first, after in pairwise([*starts, count]):
        assert after - first == 1 or measured.step(first, after - 1)[0] <= most_ms
        if after in joined:
            assert measured.step(first, after)[0] > most_ms
    assert parted(choice, outline, measured, float("inf")) == choice


def test_a_weight_on_reading_makes_plans_read_less() -> None:
    """Blocks that are computed slowly hide all reading: only the weight tells plans apart."""
    sizes = [(1 + i % 5) * PAGE for i in range(12)]
    outline = Outline(tuple(sizes), (False, *(True for _ in sizes[1:])))
    times = Delays(delays(None, [(1.0, 1.1) for _ in sizes], bytes_per_s=1e8))

    def found(weight: float) -> Candidate:
        available = sum(sizes) // 2
        planner = Planner(
            outline, times, available, cyclic=True, least_bytes=PAGE, reading_weight=weight
        )
        return planner.best()

    weights = (0.0, 1e3)
    plans = [found(weight) for weight in weights]
    assert plans[1].streamed_bytes < plans[0].streamed_bytes
    for weight, plan in zip(weights, plans, strict=True):
        reading_ms = plan.streamed_bytes / 1e8 * 1e3
        assert plan.cost_ms == pytest.approx(plan.steady_ms + weight * reading_ms)


def test_what_waits_for_itself_is_refused() -> None:
    times = Delays(delays(None, [(1.0, 1.0)]))
    with pytest.raises(ValueError, match="waits for bytes that wait for it"):
        simulate(Schedule([], [(0, 0)], [PAGE], [0], PAGE), times)
