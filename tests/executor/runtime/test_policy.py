"""Ranks and the queue: order, fairness, and that nobody waits for ever."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swapnet.errors import InputError
from swapnet.executor.runtime.policy import Job, Policy, Ranks, ReadyQueue

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


def drained(queue: ReadyQueue) -> list[int]:
    return [queue.pop().sequence for _ in range(len(queue))]


def queued(policy: str, jobs: Sequence[Job]) -> ReadyQueue:
    queue = ReadyQueue(policy)
    for each in jobs:
        queue.add(each)
    return queue


def test_the_earliest_deadline_goes_first() -> None:
    jobs = [job(0, deadline_s=3), job(1, deadline_s=1), job(2, deadline_s=2)]
    assert drained(queued("deadline", jobs)) == [1, 2, 0]


def test_deadlines_of_one_millisecond_are_equal() -> None:
    heavy = [job(n, "heavy", deadline_s=1.0002, weight=2) for n in range(4)]
    light = [job(n, "light", deadline_s=0.9998) for n in range(4, 8)]
    order = drained(queued("deadline", heavy + light))
    assert sum(sequence < 4 for sequence in order[:5]) >= 3
    assert order[:2] == [0, 4]


def test_first_come_first_served() -> None:
    jobs = [job(0, arrival_s=0.2, deadline_s=1), job(1, arrival_s=0.1, deadline_s=9)]
    assert drained(queued("first-come", jobs)) == [1, 0]


def test_the_shortest_for_its_weight_goes_first() -> None:
    jobs = [job(0, service_ms=9), job(1, service_ms=10, weight=2), job(2, service_ms=4)]
    assert drained(queued("shortest", jobs)) == [2, 1, 0]


def test_requests_of_one_model_keep_their_order() -> None:
    for policy in Policy:
        assert drained(queued(policy, [job(n) for n in range(5)])) == [0, 1, 2, 3, 4]


def test_idle_models_gain_no_credit() -> None:
    queue = queued("fair", [job(n, "busy") for n in range(10)])
    for _ in range(5):
        queue.pop()
    for n in range(10, 15):
        queue.add(job(n, "idle"))
    order = drained(queue)
    assert all(any(n >= 10 for n in order[at : at + 2]) for at in range(0, 8, 2))
    assert all(any(n < 10 for n in order[at : at + 2]) for at in range(0, 8, 2))


def test_a_request_that_is_added_again_keeps_its_rank() -> None:
    queue = queued("fair", [job(0, "a"), job(1, "b"), job(2, "a")])
    served = queue.pop()
    rank = queue.rank(served)
    queue.add(job(3, "c"))
    queue.add(served)
    assert queue.rank(served) == rank
    assert queue.pop() is served
    queue.done(served)
    assert served not in queue


def test_a_removed_request_is_not_found() -> None:
    jobs = [job(n, deadline_s=1 + n) for n in range(3)]
    queue = queued("deadline", jobs)
    queue.remove(jobs[0])
    assert len(queue) == 2
    assert queue.first() is jobs[1]
    queue.add(jobs[0])
    queue.done(jobs[1])
    assert drained(queue) == [0, 2]
    assert queue.first() is None


def test_what_is_removed_does_not_pile_up() -> None:
    queue = ReadyQueue()
    queue.add(job(0, deadline_s=0))
    for n in range(1, 2000):
        queue.add(job(n))
        queue.remove(job(n))
    assert len(queue._heap) < 200


def test_models_that_are_gone_do_not_pile_up() -> None:
    queue = ReadyQueue("fair")
    for n in range(2000):
        queue.add(job(n, f"model {n}"))
        queue.add(job(2000 + n, "always"))
        queue.done(queue.pop())
        queue.done(queue.pop())
    assert len(queue.ranks._finish) < 200
    assert not queue.ranks._ranks
    assert not queue.ranks._starts


def test_two_queues_agree() -> None:
    ranks = Ranks("fair")
    compute, storage = ReadyQueue(ranks), ReadyQueue(ranks)
    first, second = job(0), job(1)
    compute.add(first)
    storage.add(second)
    storage.add(first)
    assert storage.pop() is first
    assert compute.rank(first) == storage.rank(first) < compute.rank(second)


def test_mistakes_are_refused() -> None:
    with pytest.raises(InputError, match="deadline, first-come, fair, shortest"):
        ReadyQueue("random")
    queue = ReadyQueue()
    for wrong in (
        job(0, deadline_s=float("inf")),
        job(0, weight=0),
        job(0, service_ms=float("nan")),
    ):
        with pytest.raises(ValueError, match="no finite deadline"):
            queue.add(wrong)
    queue.add(job(1))
    with pytest.raises(ValueError, match="waiting already"):
        queue.add(job(1))
    queue.pop()
    with pytest.raises(IndexError, match="nothing is waiting"):
        queue.pop()
    with pytest.raises(KeyError):
        queue.remove(job(1))


JOBS = st.lists(
    st.tuples(
        st.sampled_from("abc"),
        st.floats(0, 5),
        st.floats(0.1, 4),
        st.floats(0, 50),
        st.sampled_from(["add", "pop", "remove"]),
    ),
    max_size=40,
)


@settings(deadline=None)
@given(JOBS, st.sampled_from(list(Policy)))
def test_is_a_sorted_list(
    steps: Sequence[tuple[str, float, float, float, str]], policy: Policy
) -> None:
    queue = ReadyQueue(policy)
    waiting: list[Job] = []
    for sequence, (model, deadline_s, weight, service_ms, action) in enumerate(steps):
        waiting.sort(key=queue.rank)
        if action == "add" or not waiting:
            waiting.append(Job(model, sequence, float(sequence), deadline_s, weight, service_ms))
            queue.add(waiting[-1])
        elif action == "pop":
            assert queue.pop() is waiting.pop(0)
        else:
            queue.remove(waiting.pop(len(waiting) // 2))
        assert len(queue) == len(waiting)
        assert queue.first() is min(waiting, key=queue.rank, default=None)


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
    queue = ReadyQueue(policy)
    sequences = count()
    now_s = 0.0

    def add(model: str, relative_s: float, weight: float, service_ms: float) -> Job:
        new = Job(model, next(sequences), now_s, now_s + relative_s, weight, service_ms)
        queue.add(new)
        return new

    for rival in rivals:
        add(*rival)
    last = add("victim", patience_s, weight, 1.0)
    victim = add("victim", patience_s, weight, 1.0)
    assert queue.rank(last) < queue.rank(victim)
    for turn in range(10_000):
        served = queue.pop()
        if served is victim:
            break
        queue.done(served)
        now_s += served.service_ms / 1e3
        for step in range(2):
            add(*rivals[(turn + step) % len(rivals)])
    assert served is victim


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
    queue = ReadyQueue("fair")
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
