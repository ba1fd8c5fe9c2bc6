"""Who runs when, how often, and what happens to those that fail."""

from __future__ import annotations

import pytest

from swapnet.errors import BudgetError, InputError
from swapnet.executor.bench import rounds
from swapnet.executor.bench.rounds import Pacer, Pauses, Schedule, run_rounds
from swapnet.executor.bench.timing import Round, Timing


class Fake:
    """A side of constant latency that fails at a certain call."""

    def __init__(self, ms: float, fails_at: int | None = None) -> None:
        self.counts: list[int] = []
        self._ms = ms
        self._fails_at = fails_at

    def __call__(self, count: int) -> Round:
        if len(self.counts) == self._fails_at:
            raise BudgetError("killed", why="too large")
        self.counts.append(count)
        return Round.of([self._ms] * count)


class Slowing(Fake):
    """A side that takes a fifth longer in each of its first rounds."""

    def __init__(self, rounds: int) -> None:
        super().__init__(10)
        self._left = rounds

    def __call__(self, count: int) -> Round:
        self._ms *= 1.2 if self._left > 0 else 1
        self._left -= 1
        return super().__call__(count)


def schedule(**fields: float) -> Schedule:
    usual = {"iterations": 15, "warm_up_ms": 0, "duration_s": 0, "rounds": 5}
    return Schedule(**{**usual, **fields})  # type: ignore[arg-type]


def test_all_sides_have_as_many_turns() -> None:
    sides = {"swapped": Fake(10), "resident": Fake(20)}
    taken = run_rounds(schedule(), sides)
    assert [len(rounds) for rounds in taken.rounds.values()] == [5, 5]
    assert sides["swapped"].counts == [1, 3, 3, 3, 3, 3]
    assert not taken.notes


def test_slow_sides_have_fewer_inferences_but_one() -> None:
    sides = {"fast": Fake(10), "slow": Fake(40), "slowest": Fake(1000)}
    run_rounds(schedule(turn_ms=100), sides)
    assert [side.counts[-1] for side in sides.values()] == [3, 2, 1]


def test_short_inferences_come_in_long_rounds() -> None:
    sides = {"swapped": Fake(0.125), "resident": Fake(1)}
    taken = run_rounds(schedule(duration_s=3), sides)
    assert len(taken.rounds["swapped"]) == 30
    assert [side.counts[-1] for side in sides.values()] == [800, 100]


def test_optional_sides_stop_early() -> None:
    taken = run_rounds(
        schedule(optional_rounds=2), {"swapped": Fake(1), "mapped": Fake(9)}, ["mapped"]
    )
    assert len(taken.rounds["mapped"]) == 2
    assert len(taken.rounds["swapped"]) == 5


@pytest.mark.parametrize(("fails_at", "rounds"), [(0, 0), (3, 2)])
def test_optional_sides_may_fail(fails_at: int, rounds: int) -> None:
    sides = {"swapped": Fake(1), "mapped": Fake(9, fails_at)}
    taken = run_rounds(schedule(), sides, ["mapped"])
    assert taken.notes == {"mapped": "killed: too large"}
    assert len(taken.rounds["mapped"]) == rounds
    assert len(taken.rounds["swapped"]) == 5


def test_others_may_not() -> None:
    with pytest.raises(BudgetError, match="killed"):
        run_rounds(schedule(), {"swapped": Fake(1, 2)})


def test_three_rounds_are_enough_after_long() -> None:
    taken = run_rounds(schedule(at_most_s=0), {"swapped": Fake(1)})
    assert len(taken.rounds["swapped"]) == 3


def test_the_warm_up_is_counted_apart() -> None:
    side = Fake(1)
    taken = run_rounds(schedule(), {"swapped": side})
    assert taken.warm_up_inferences == 2
    assert taken.warm_up_ms > 0
    assert taken.wall_s > 0
    assert sum(len(turn.timings) for turn in taken.rounds["swapped"]) == 15


@pytest.mark.parametrize(("slowing", "rounds"), [(0, 5), (6, 7), (99, 10)])
def test_rounds_are_added_until_the_last_three_agree(slowing: int, rounds: int) -> None:
    taken = run_rounds(schedule(most_rounds=10), {"swapped": Slowing(slowing)})
    assert len(taken.rounds["swapped"]) == rounds


def test_pauses_count_for_the_duration() -> None:
    def paused(count: int) -> Round:
        return Round(tuple(Timing(1.0, idle_ms=9.0) for _ in range(count)))

    taken = run_rounds(schedule(duration_s=0.03, rounds=1, iterations=1), {"swapped": paused})
    assert len(taken.rounds["swapped"]) == 3


def test_rounds_go_on_until_the_duration() -> None:
    taken = run_rounds(schedule(duration_s=0.03, rounds=1, iterations=1), {"swapped": Fake(5)})
    assert len(taken.rounds["swapped"]) == 6


def test_progress_has_rounds_inferences_and_the_median() -> None:
    told: list[tuple[str, int, int]] = []
    sides = {"swapped": Fake(10), "resident": Fake(20)}
    run_rounds(schedule(duration_s=0.2), sides, progress=lambda *said: told.append(said))
    assert told[:3] == [
        ("warm up", 0, 1),
        ("measure", 0, 5),
        ("measure, median 10.0 ms, 3 inferences", 1, 7),
    ]
    assert told[-1] == ("measure, median 10.0 ms, 18 inferences", 6, 7)


class Clock:
    """Stands in for `time`."""

    now = 100.0

    def perf_counter(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    standing_in = Clock()
    monkeypatch.setattr(rounds, "time", standing_in)
    return standing_in


def test_without_a_pause_nothing_sleeps(clock: Clock) -> None:
    pacer = Pacer(Pauses())
    assert pacer.wait() == 0
    assert not pacer.is_late()
    assert clock.now == 100


def test_a_pause_comes_before_each_inference(clock: Clock) -> None:
    pacer = Pacer(Pauses(idle_ms=50))
    assert pacer.wait() == pytest.approx(50)
    clock.sleep(9)
    assert not pacer.is_late()
    assert pacer.wait() == pytest.approx(50)


def test_frames_come_at_a_rate_and_a_late_one_begins_at_once(clock: Clock) -> None:
    pacer = Pacer(Pauses(rate_hz=10))
    assert pacer.wait() == pytest.approx(100)
    clock.sleep(0.04)
    assert not pacer.is_late()
    assert pacer.wait() == pytest.approx(60)
    clock.sleep(0.25)
    assert pacer.is_late()
    assert pacer.wait() == 0
    clock.sleep(0.01)
    assert pacer.is_late() is False or clock.now > 100.4
    assert pacer.wait() == pytest.approx(0)


def test_a_pause_and_a_rate_are_refused() -> None:
    with pytest.raises(InputError, match="do not go together"):
        Pauses(idle_ms=1, rate_hz=10)
