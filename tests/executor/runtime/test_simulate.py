"""The virtual device against hand-made examples, a formula, and the pipeline of one model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swapnet.executor.planning import timeline
from swapnet.executor.planning.schedule import Schedule
from swapnet.executor.runtime.arrivals import Times, poisson
from swapnet.executor.runtime.policy import PATIENCE_S, Policy
from swapnet.executor.runtime.simulate import SimulatedModel, simulate
from tests.helpers.profiles import delays


def latencies(outcome: Sequence[Times]) -> list[list[float]]:
    return [[round(float(ms), 6) for ms in of_model] for of_model in outcome]


def test_requests_of_one_model_wait_for_each_other() -> None:
    outcome = simulate([SimulatedModel("a", 10, steps=2)], [(0.0, 0), (0.004, 0), (1.0, 0)])
    assert latencies(outcome) == [[10, 16, 10]]


def test_a_more_urgent_request_goes_first_at_the_next_step() -> None:
    models = [
        SimulatedModel("long", 100, steps=10, deadline_ms=1000),
        SimulatedModel("short", 5, deadline_ms=20),
    ]
    arrivals = [(0.0, 0), (0.012, 1)]
    assert latencies(simulate(models, arrivals)) == [[105], [13]]
    assert latencies(simulate(models, arrivals, policy="first-come")) == [[100], [93]]
    assert latencies(simulate(models, arrivals, lanes=2)) == [[100], [5]]


def test_a_model_without_a_deadline_has_patience() -> None:
    models = [
        SimulatedModel("patient", 10),
        SimulatedModel("blocks", 20),
        SimulatedModel("late", 10, deadline_ms=PATIENCE_S * 2e3),
    ]
    outcome = simulate(models, [(0.0, 1), (0.001, 2), (0.002, 0)])
    assert latencies(outcome) == [[28], [20], [39]]


@pytest.mark.parametrize(
    ("prefetch_ms", "expected"), [(0, [40, 80, 30]), (15, [30, 50, 20]), (20, [30, 50, 20])]
)
def test_reading_runs_ahead_as_far_as_the_ring(prefetch_ms: float, expected: list[float]) -> None:
    """Two steps of 10 ms, whose bytes take 10 ms each; the ring holds one step's bytes or two."""
    model = SimulatedModel("a", 20, 20, prefetch_ms, steps=2, rate_per_s=1)
    outcome = simulate([model], [(0.0, 0), (0.0, 0), (1.0, 0)])
    assert latencies(outcome) == [expected]


def test_storage_serves_the_more_urgent_request() -> None:
    models = [
        SimulatedModel("late", 1, 100, 20, steps=10, deadline_ms=1000),
        SimulatedModel("soon", 1, 10, deadline_ms=50),
    ]
    for policy, expected in ("deadline", [[105.1], [16]]), ("first-come", [[95.1], [106]]):
        outcome = simulate(models, [(0.005, 0), (0.005, 1)], policy=policy)
        assert latencies(outcome) == expected


def test_what_is_expected_first_is_read_first() -> None:
    """Storage, busy at first, has time for one of the two before both come."""
    models = [
        SimulatedModel("first", 1, 10, 10, rate_per_s=0),
        SimulatedModel("rare", 1, 10, 10, rate_per_s=1),
        SimulatedModel("often", 1, 10, 10, rate_per_s=10),
    ]
    outcome = simulate(models, [(0.02, 1), (0.02, 2)])
    assert latencies(outcome) == [[], [11], [1]]


def test_who_is_patient_is_served_where_others_come_faster_than_they_are() -> None:
    busy = [SimulatedModel(name, 10, deadline_ms=50) for name in ("one", "other")]
    models = [SimulatedModel("patient", 10), *busy]
    arrivals = sorted([(0.011, 0), *((at * 5e-3, 1 + at % 2) for at in range(4_000))])
    outcome = simulate(models, arrivals)
    assert outcome[0][0] == pytest.approx(2 * PATIENCE_S * 1e3, rel=0.01)


def test_a_ring_is_filled_before_the_request_comes() -> None:
    model = SimulatedModel("a", 10, 40, 20, steps=4, rate_per_s=1)
    outcome = simulate([model], [(float(second), 0) for second in range(1, 5)])
    assert latencies(outcome) == [[25] * 4]


@settings(deadline=None)
@given(
    steps=st.integers(1, 5),
    compute_ms=st.floats(0.5, 50),
    read_ms=st.floats(0.5, 50),
    ahead=st.integers(1, 5),
)
def test_one_model_is_the_pipeline(
    steps: int, compute_ms: float, read_ms: float, ahead: int
) -> None:
    """The delay model that plans are made by, which was written for one engine."""
    ahead = min(ahead, steps)
    model = SimulatedModel("a", compute_ms, read_ms, ahead * read_ms / steps, steps)
    outcome = simulate([model], [(0.0, 0)] * 6)
    nbytes = 1_000_000
    profile = delays(
        None, [(compute_ms / steps,) * 2] * steps, bytes_per_s=nbytes / (read_ms / steps) * 1e3
    )
    order = Schedule(
        placed=[],
        spans=[(step, step) for step in range(steps)],
        needed=[nbytes * (step + 1) for step in range(steps)],
        allowed=[nbytes * (step + ahead) for step in range(steps)],
        lap_bytes=nbytes * steps,
    )
    expected = timeline.simulate(order, timeline.Delays(profile)).steady_ms
    *_, before, last = outcome[0]
    assert last - before == pytest.approx(expected, rel=1e-6)


def test_waiting_is_that_of_the_formula() -> None:
    """Pollaczek and Khinchine: M/D/1 at a load of 0.6 waits 0.75 services on average."""
    model = SimulatedModel("a", 10, rate_per_s=60)
    outcome = simulate([model], poisson([60.0], 50_000, 1), policy="first-come")
    assert outcome[0].mean() == pytest.approx(17.5, rel=0.03)


MODELS = st.lists(
    st.builds(
        SimulatedModel,
        name=st.just(""),
        compute_ms=st.floats(0, 30),
        read_ms=st.floats(0, 30),
        prefetch_ms=st.floats(0, 30),
        steps=st.integers(1, 4),
        priority=st.floats(0.5, 4),
        deadline_ms=st.none() | st.floats(1, 300),
        rate_per_s=st.floats(0, 20),
    ),
    min_size=1,
    max_size=4,
).map(lambda models: [replace(model, name=str(at)) for at, model in enumerate(models)])


@settings(deadline=None)
@given(
    MODELS,
    st.lists(st.tuples(st.floats(0, 1), st.integers(0, 3)), max_size=30),
    st.sampled_from(list(Policy)),
    st.integers(1, 3),
)
def test_every_request_is_answered(
    models: Sequence[SimulatedModel],
    requests: Sequence[tuple[float, int]],
    policy: Policy,
    lanes: int,
) -> None:
    arrivals = sorted((time_s, index % len(models)) for time_s, index in requests)
    outcome = simulate(models, arrivals, policy=policy, lanes=lanes)
    counts = [sum(index == at for _, index in arrivals) for at in range(len(models))]
    assert [len(of_model) for of_model in outcome] == counts
    for model, of_model in zip(models, outcome, strict=True):
        assert (of_model >= model.compute_ms - 1e-6).all()


def test_mistakes_are_refused() -> None:
    model = SimulatedModel("a", 1)
    with pytest.raises(ValueError, match="a request of 1"):
        simulate([model], [(2.0, 0), (1.0, 0)])
    for wrong in (SimulatedModel("a", 1, steps=0), SimulatedModel("a", -1)):
        with pytest.raises(ValueError, match="at least one step"):
            simulate([wrong], [])


def test_a_ring_is_no_larger_than_what_is_read() -> None:
    """Reads that take no time could go on for ever."""
    outcome = simulate([SimulatedModel("a", 1, 1e-300, 30, rate_per_s=1)], [(1.0, 0)])
    assert latencies(outcome) == [[1]]


def test_no_requests() -> None:
    for models in ([], [SimulatedModel("a", 1, 1, 1, rate_per_s=1)]):
        outcome = simulate(models, [])
        assert [len(of_model) for of_model in outcome] == [0] * len(models)


def test_policies_differ_as_they_should() -> None:
    """Thirty DNNs of one to thirty milliseconds keep one lane busy for 80 % of the time."""
    rates = [0.8e3 / (30 * at) for at in range(1, 31)]
    models = [
        SimulatedModel(str(at), at, steps=3, priority=1 + at % 3, deadline_ms=8.0 * at + 40)
        for at in range(1, 31)
    ]
    outcomes = {
        policy: simulate(models, poisson(rates, 3000, 5), policy=policy) for policy in Policy
    }
    deadlines = [model.deadline_ms or np.inf for model in models]
    misses = {
        policy: sum((ms > limit).sum() for ms, limit in zip(found, deadlines, strict=True))
        for policy, found in outcomes.items()
    }
    weighted = {
        policy: sum(model.priority * ms.sum() for model, ms in zip(models, found, strict=True))
        for policy, found in outcomes.items()
    }
    assert min(misses, key=misses.__getitem__) in (Policy.DEADLINE, Policy.SHORTEST)
    assert min(weighted, key=weighted.__getitem__) is Policy.SHORTEST
