"""Who computes: order, preemption at the end of a step, lanes beside each other, one alone."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial

import pytest

from swapnet.executor.runtime.lanes import Lanes, LaneTurn, Uninterrupted
from swapnet.executor.runtime.policy import Job, Policy
from tests.helpers.threads import LIMIT_S, started

Until = Callable[[Callable[[], bool]], None]


def job(sequence: int, deadline_s: float = 1.0, service_ms: float = 1.0) -> Job:
    return Job(f"m{sequence}", sequence, 0.0, deadline_s, 1.0, service_ms)


def admitted(lanes: Lanes, *deadlines_s: float) -> list[LaneTurn]:
    """One turn for each deadline."""
    turns = [LaneTurn(lanes, job(index, at)) for index, at in enumerate(deadlines_s)]
    for turn in turns:
        lanes.admit(turn.job)
    return turns


def waiting(lanes: Lanes, turn: LaneTurn) -> Callable[[], bool]:
    return lambda: turn.job in lanes._queue


def in_line(lanes: Lanes, turn: LaneTurn, until: Until) -> Future[None]:
    """Ask for a step that others keep from being granted."""
    asked = started(turn.take)
    until(waiting(lanes, turn))
    return asked


def test_the_earliest_deadline_is_next(until: Until) -> None:
    lanes = Lanes()
    first, late, early = admitted(lanes, 9.0, 3.0, 2.0)
    first.take()
    asked = {turn: in_line(lanes, turn, until) for turn in (late, early)}
    first.leave()
    asked[early].result(LIMIT_S)
    assert early.held
    assert not late.held
    early.leave()
    asked[late].result(LIMIT_S)


def test_an_earlier_deadline_overtakes_between_two_steps(until: Until) -> None:
    lanes = Lanes()
    running, urgent = admitted(lanes, 5.0, 1.0)
    running.take()
    overtakes = in_line(lanes, urgent, until)
    assert running.held
    goes_on = started(running.take)
    overtakes.result(LIMIT_S)
    until(waiting(lanes, running))
    assert (urgent.held, running.held) == (True, False)
    urgent.take()
    urgent.leave()
    goes_on.result(LIMIT_S)


def test_a_later_deadline_waits_for_the_last_step(until: Until) -> None:
    lanes = Lanes()
    running, later = admitted(lanes, 1.0, 5.0)
    running.take()
    asked = in_line(lanes, later, until)
    for _ in range(3):
        running.take()
        assert running.held
        assert not later.held
    running.leave()
    asked.result(LIMIT_S)


def test_the_policy_decides(until: Until) -> None:
    lanes = Lanes(policy=Policy.SHORTEST)
    turns = [LaneTurn(lanes, job(i, service_ms=ms)) for i, ms in enumerate((1.0, 9.0, 2.0))]
    for turn in turns:
        lanes.admit(turn.job)
    first, long, short = turns
    first.take()
    asked = {turn: in_line(lanes, turn, until) for turn in (long, short)}
    first.leave()
    asked[short].result(LIMIT_S)
    assert not long.held
    short.leave()
    asked[long].result(LIMIT_S)


def test_lanes_compute_beside_each_other(until: Until) -> None:
    lanes = Lanes(2)
    one, two, three = admitted(lanes, 1.0, 2.0, 3.0)
    one.take()
    two.take()
    assert one.held
    assert two.held
    asked = in_line(lanes, three, until)
    one.leave()
    asked.result(LIMIT_S)
    assert two.held


def test_leaving_twice_frees_one_lane(until: Until) -> None:
    lanes = Lanes()
    one, two, three = admitted(lanes, 1.0, 2.0, 3.0)
    one.take()
    one.leave()
    one.leave()
    two.take()
    asked = in_line(lanes, three, until)
    assert not three.held
    two.leave()
    asked.result(LIMIT_S)


def test_one_lane_is_always_alone() -> None:
    (turn,) = admitted(Lanes(), 1.0)
    turn.take()
    assert not turn.clear()
    assert turn.held


def test_a_turn_is_alone_when_the_others_steps_have_ended(until: Until) -> None:
    lanes = Lanes(3)
    large, other, waits, new = admitted(lanes, 4.0, 3.0, 2.0, 1.0)
    for turn in (large, other, waits):
        turn.take()
    alone = started(large.clear)
    until(lambda: lanes._alone is large)
    stopped = in_line(lanes, other, until)
    assert not alone.done()
    waits.leave()
    assert alone.result(LIMIT_S)
    late = in_line(lanes, new, until)
    assert [turn.held for turn in (other, new)] == [False, False]
    large.take()
    stopped.result(LIMIT_S)
    late.result(LIMIT_S)
    assert all(turn.held for turn in (large, other, new))


def test_a_turn_may_be_alone_again_and_again() -> None:
    lanes = Lanes(2)
    (turn,) = admitted(lanes, 1.0)
    turn.take()
    assert turn.clear()
    assert turn.clear()
    turn.leave()
    (other,) = admitted(lanes, 1.0)
    other.take()
    assert other.held


def test_two_may_want_to_be_alone(until: Until) -> None:
    lanes = Lanes(2)
    one, two = admitted(lanes, 1.0, 2.0)
    one.take()
    two.take()
    first = started(one.clear)
    until(lambda: lanes._alone is one)
    second = started(two.clear)
    assert first.result(LIMIT_S)
    assert not two.held
    one.leave()
    assert second.result(LIMIT_S)
    assert lanes._alone is two


@pytest.mark.parametrize("count", [1, 2, 3])
def test_lanes_are_never_overcommitted(count: int) -> None:
    """Many inferences with steps, waits and moments alone: all of them end."""
    lanes = Lanes(count)
    lock = threading.Lock()
    computing: set[int] = set()
    wrong: list[str] = []

    def infer(number: int) -> None:
        chance = random.Random(number)
        for lap in range(15):
            turn = LaneTurn(lanes, job(number + 100 * lap, chance.random()))
            lanes.admit(turn.job)
            try:
                for _ in range(chance.randint(1, 4)):
                    turn.take()
                    compute(number, count)
                    if chance.random() < 0.3 and turn.clear():
                        compute(number, 1)
                    if chance.random() < 0.3:
                        turn.leave()
            finally:
                turn.leave()
                lanes.dismiss(turn.job)

    def compute(number: int, limit: int) -> None:
        with lock:
            computing.add(number)
            if len(computing) > limit:
                wrong.append(f"{computing} compute, {limit} may")
        threading.Event().wait(0.0002)
        with lock:
            computing.remove(number)

    inferences = [started(partial(infer, number)) for number in range(6)]
    for inference in inferences:
        inference.result(LIMIT_S)
    assert not wrong
    assert len(lanes._queue) == 0
    assert lanes._free == count


def test_an_uninterrupted_turn_is_kept(until: Until) -> None:
    lanes = Lanes()
    turn, urgent = admitted(lanes, 5.0, 1.0)
    kept = Uninterrupted(turn)
    kept.take()
    asked = in_line(lanes, urgent, until)
    kept.leave()
    kept.take()
    assert not kept.clear()
    assert turn.held
    assert not urgent.held
    turn.leave()
    asked.result(LIMIT_S)


def test_what_has_ended_is_forgotten() -> None:
    lanes = Lanes()
    for number in range(200):
        turn = LaneTurn(lanes, job(number))
        rank = lanes.admit(turn.job)
        assert lanes.admit(turn.job) == rank
        turn.take()
        turn.leave()
        lanes.dismiss(turn.job)
    assert not lanes._queue.ranks._ranks
    assert not lanes._waiting
