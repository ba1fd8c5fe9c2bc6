"""Who runs when, how often, and what happens to those that fail."""

from __future__ import annotations

import pytest

from swapnet.errors import BudgetError
from swapnet.executor.bench.rounds import Schedule, run_rounds
from swapnet.executor.bench.timing import Round


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


def test_rounds_go_on_until_the_duration() -> None:
    taken = run_rounds(schedule(duration_s=0.03, rounds=1, iterations=1), {"swapped": Fake(5)})
    assert len(taken.rounds["swapped"]) == 6
