"""Ranks: order, fairness, and that nobody waits for ever."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swapnet.errors import InputError
from swapnet.executor.runtime.policy import Job, Policy, Ranked, Ranks

NO_STARVATION = [Policy.DEADLINE, Policy.FIRST_COME, Policy.FAIR]


def job(
    sequence: int,
    model: str = "a",
    *,
    arrival_s: float = 0.0,
    deadline_s: float = 1.0,
    weight: float = 1.0,
    service_ms: float = 10.0,
) -> Job:
    return Job(model, sequence, arrival_s, deadline_s, weight, service_ms)


class Queue:
    """Requests that wait; the first is served next."""

    def __init__(self, policy: str, jobs: Sequence[Job] = ()) -> None:
        self.ranks = Ranks(policy)
        self.waiting: list[Ranked] = []
        for each in jobs:
            self.add(each)

    def add(self, job: Job) -> Ranked:
        self.waiting.append(self.ranks.rank(job))
        return self.waiting[-1]

    def pop(self) -> Job:
        first = min(self.waiting)
        self.waiting.remove(first)
        self.ranks.serve(first.start)
        return first.job


def drained(queue: Queue) -> list[int]:
    return [queue.pop().sequence for _ in range(len(queue.waiting))]


def test_the_earliest_deadline_goes_first() -> None:
    jobs = [job(0, deadline_s=3), job(1, deadline_s=1), job(2, deadline_s=2)]
    assert drained(Queue("deadline", jobs)) == [1, 2, 0]


def test_deadlines_of_one_millisecond_are_equal() -> None:
    heavy = [job(n, "heavy", deadline_s=1.0002, weight=2) for n in range(4)]
    light = [job(n, "light", deadline_s=0.9998) for n in range(4, 8)]
    order = drained(Queue("deadline", heavy + light))
    assert sum(sequence < 4 for sequence in order[:5]) >= 3
    assert order[:2] == [0, 4]


def test_first_come_first_served() -> None:
    jobs = [job(0, arrival_s=0.2, deadline_s=1), job(1, arrival_s=0.1, deadline_s=9)]
    assert drained(Queue("first-come", jobs)) == [1, 0]


def test_the_shortest_for_its_weight_goes_first() -> None:
    jobs = [job(0, service_ms=9), job(1, service_ms=10, weight=2), job(2, service_ms=4)]
    assert drained(Queue("shortest", jobs)) == [2, 1, 0]


def test_requests_of_one_model_keep_their_order() -> None:
    for policy in Policy:
        assert drained(Queue(policy, [job(n) for n in range(5)])) == [0, 1, 2, 3, 4]


def test_idle_models_gain_no_credit() -> None:
    queue = Queue("fair", [job(n, "busy") for n in range(10)])
    for _ in range(5):
        queue.pop()
    for n in range(10, 15):
        queue.add(job(n, "idle"))
    order = drained(queue)
    assert all(any(n >= 10 for n in order[at : at + 2]) for at in range(0, 8, 2))
    assert all(any(n < 10 for n in order[at : at + 2]) for at in range(0, 8, 2))


def test_a_model_that_is_gone_is_forgotten() -> None:
    """The next of its name begins anew."""
    ranks = Ranks("fair")
    ranks.rank(job(0, "a"))
    late = ranks.rank(job(1, "a"))
    ranks.forget("a")
    ranks.forget("never")
    assert ranks.rank(job(2, "a")) < late


def test_mistakes_are_refused() -> None:
    with pytest.raises(InputError, match="deadline, first-come, fair, shortest"):
        Ranks("random")
    for wrong in (
        job(0, deadline_s=float("inf")),
        job(0, weight=0),
        job(0, service_ms=float("nan")),
    ):
        with pytest.raises(ValueError, match="no finite deadline"):
            Ranks().rank(wrong)


@settings(deadline=None)
@given(
    st.sampled_from(NO_STARVATION),
    st.lists(
        st.tuples(st.sampled_from("abc"), st.floats(0, 2), st.floats(0.5, 4), st.floats(1, 50)),
        min_size=1,
        max_size=20,
    ),
    st.floats(0, 3),
    st.floats(0.5, 4),
)
def test_nobody_waits_for_ever(
    policy: Policy,
    rivals: Sequence[tuple[str, float, float, float]],
    patience_s: float,
    weight: float,
) -> None:
    """One request, and others that come faster than they are served, as urgent as they can be."""
    queue = Queue(policy)
    sequences = count()
    now_s = 0.0

    def add(model: str, relative_s: float, weight: float, service_ms: float) -> Ranked:
        new = Job(model, next(sequences), now_s, now_s + relative_s, weight, service_ms)
        return queue.add(new)

    for rival in rivals:
        add(*rival)
    last = add("victim", patience_s, weight, 1.0)
    victim = add("victim", patience_s, weight, 1.0)
    assert last < victim
    for turn in range(10_000):
        served = queue.pop()
        if served is victim.job:
            break
        now_s += served.service_ms / 1e3
        for step in range(2):
            add(*rivals[(turn + step) % len(rivals)])
    assert served is victim.job


@settings(deadline=None)
@given(
    st.dictionaries(
        st.sampled_from("abcd"),
        st.tuples(st.floats(0.5, 4), st.lists(st.floats(1, 20), min_size=1, max_size=5)),
        min_size=2,
    )
)
def test_shares_follow_weights(models: dict[str, tuple[float, list[float]]]) -> None:
    """While all are waiting, served over weight differs by one request of each at most."""
    queue = Queue("fair")
    sequences = count()
    given_ms: defaultdict[str, float] = defaultdict(float)

    def add(model: str, turn: int) -> None:
        weight, services = models[model]
        queue.add(Job(model, next(sequences), 0.0, 1.0, weight, services[turn % len(services)]))

    for turn in range(100):
        for model in models:
            add(model, turn)
    for _ in range(80):
        served = queue.pop()
        given_ms[served.model] += served.service_ms / served.weight
        if max(given_ms.values()) > 80:
            break
        for one, (weight, services) in models.items():
            for other, (other_weight, other_services) in models.items():
                most = max(services) / weight + max(other_services) / other_weight
                assert abs(given_ms[one] - given_ms[other]) <= most + 1e-6
