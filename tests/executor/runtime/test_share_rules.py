"""Rules that a runtime shares its memory by."""

from __future__ import annotations

from functools import partial

import pytest

from swapnet.errors import InputError
from swapnet.executor.runtime.share_rules import ShareRule
from swapnet.executor.runtime.split import RULES, Claim, Option

CLAIMS = [
    Claim("small", (Option(1, 20.0, 9.0), Option(4, 10.0))),
    Claim("large", (Option(3, 30.0, 9.0), Option(9, 10.0))),
]


@pytest.mark.parametrize("name", RULES)
@pytest.mark.slow
def test_shares_fit(name: str) -> None:
    rule = ShareRule(name)
    for available in range(4, 20):
        shares_bytes = rule.shares_bytes(CLAIMS, available)
        assert set(shares_bytes) == {"small", "large"}
        assert sum(shares_bytes.values()) <= available


def test_a_split_that_does_better_in_a_simulation_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not for less than two percent, and not for many engines."""
    claims = [
        Claim(
            "often", (Option(1, 30.0, 20.0), Option(9, 20.0, 9.0), Option(20, 10.0)), rate_per_s=5.0
        ),
        Claim("rare", (Option(1, 90.0, 60.0), Option(30, 70.0, 30.0))),
    ]
    by_rule = {rule: ShareRule(rule).shares_bytes(claims, 24) for rule in RULES}
    assert len({tuple(shares.values()) for shares in by_rule.values()}) == 3
    costs = dict.fromkeys(RULES, 1.0)

    asked: list[dict[str, int]] = []

    def simulated(_: object, shares: dict[str, int], *, lanes: int, policy: str) -> float:
        assert (lanes, policy) == (2, "fair")
        asked.append(shares)
        return next(costs[rule] for rule in RULES if by_rule[rule] == shares)

    monkeypatch.setattr("swapnet.executor.runtime.share_rules.simulated_cost", simulated)
    again = partial(ShareRule, "latency", lanes=2, policy="fair")
    ours = again()
    assert ours.shares_bytes(claims, 24) == by_rule["latency"]
    assert [ours.cost(claims, by_rule[rule]) for rule in RULES] == [1.0] * 3
    assert len(asked) == 3, "each is simulated once"
    costs["equal"] = 0.99
    ours = again()
    assert ours.shares_bytes(claims, 24) == by_rule["latency"]
    costs["equal"] = 0.95
    ours = again()
    assert ours.shares_bytes(claims, 24) == by_rule["equal"]
    costs["proportional"] = 0.9
    ours = again()
    assert ours.shares_bytes(claims, 24) == by_rule["proportional"]
    monkeypatch.setattr("swapnet.executor.runtime.share_rules.MOST_CLAIMS", 1)
    assert ours.shares_bytes(claims, 24) == by_rule["latency"]


def test_mistakes_are_refused() -> None:
    with pytest.raises(InputError, match="there is no split 'best'"):
        ShareRule("best")
