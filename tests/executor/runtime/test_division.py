"""Each model has a part of the memory, or all take turns in the whole of it."""

from __future__ import annotations

from functools import partial

import pytest

from swapnet.errors import InputError
from swapnet.executor.runtime.division import DIVISIONS, Division, Parts, division_for
from swapnet.executor.runtime.split import RULES, Claim, Option

CLAIMS = [
    Claim("small", (Option(1, 20.0, 9.0), Option(4, 10.0))),
    Claim("large", (Option(3, 30.0, 9.0), Option(9, 10.0))),
]


@pytest.mark.parametrize("name", DIVISIONS)
def test_shares_fit(name: str) -> None:
    """Together or, where models take turns, each of them."""
    division = division_for(name)
    needed = division.needed_bytes(CLAIMS)
    assert needed == (4 if name in RULES else 3)
    for available in range(needed, 20):
        shares = division.shares(CLAIMS, available)
        assert set(shares) == {"small", "large"}
        assert (sum if name in RULES else max)(shares.values()) <= available


def test_a_split_that_does_better_on_the_clock_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not for less than two percent, and not for many engines."""
    claims = [
        Claim("often", (Option(1, 30.0, 20.0), Option(9, 20.0, 9.0), Option(20, 10.0)), 1.0, 5.0),
        Claim("rare", (Option(1, 90.0, 60.0), Option(30, 70.0, 30.0)), 1.0, 1.0),
    ]
    by_rule = {rule: Parts(rule).shares(claims, 24) for rule in RULES}
    assert len({tuple(shares.values()) for shares in by_rule.values()}) == 3
    costs = dict.fromkeys(RULES, 1.0)

    def rehearsed(_: object, shares: dict[str, int], *, lanes: int, policy: str) -> float:
        assert (lanes, policy) == (2, "fair")
        return next(costs[rule] for rule in RULES if by_rule[rule] == shares)

    monkeypatch.setattr("swapnet.executor.runtime.division.rehearse", rehearsed)
    division = division_for("latency", lanes=2, policy="fair")
    assert division.shares(claims, 24) == by_rule["latency"]
    costs["equal"] = 0.99
    assert division.shares(claims, 24) == by_rule["latency"]
    costs["equal"] = 0.95
    assert division.shares(claims, 24) == by_rule["equal"]
    costs["proportional"] = 0.9
    assert division.shares(claims, 24) == by_rule["proportional"]
    monkeypatch.setattr("swapnet.executor.runtime.division.MOST_CLAIMS", 1)
    assert division.shares(claims, 24) == by_rule["latency"]


def evictions(division: Division) -> list[str]:
    """What leaves memory for one byte when two use it in turn, and when the last one changes."""
    evicted: list[str] = []
    division.resize(1)
    for name in ("one", "two"):
        with division.hold(name, 1, partial(evicted.append, name)):
            pass
    division.leave("two")
    division.leave("two")
    return evicted


@pytest.mark.parametrize("name", RULES)
def test_a_part_is_kept(name: str) -> None:
    assert evictions(division_for(name)) == []


def test_whole_models_take_turns() -> None:
    assert evictions(division_for("whole-model")) == ["one", "two"]


def test_what_is_gone_is_not_evicted() -> None:
    evicted: list[str] = []
    for division in map(division_for, DIVISIONS):
        division.resize(1)
        with division.hold("gone", 1, partial(evicted.append, "gone")):
            pass
        division.forget("gone")
        division.leave("gone")
    assert evicted == []


def test_mistakes_are_refused() -> None:
    with pytest.raises(InputError, match="there is no split 'best'"):
        division_for("best")
