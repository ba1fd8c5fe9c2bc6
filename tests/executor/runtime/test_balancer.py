"""Rates that differ from those expected move shares."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from queue import Queue

import pytest

from swapnet.executor import SwapRuntime
from swapnet.executor.runtime.balancer import Balancer
from swapnet.executor.runtime.share_rules import SimulatedShareRule
from swapnet.executor.runtime.split import Claim, cost_of
from tests.helpers.simulated import (
    Engines,
    asking,
    budget_for,
    expected_shares,
    load_all,
)
from tests.helpers.threads import LIMIT_S, ended

Until = Callable[[Callable[[], bool]], None]
Open = Callable[..., SwapRuntime]


@pytest.fixture
def drifted() -> Queue[str]:
    """Filled each time that rates had drifted."""
    return Queue()


@pytest.fixture
def balancer(drifted: Queue[str]) -> Iterator[Balancer]:
    """Never rests."""
    balancer = Balancer(partial(drifted.put, "drifted"), rest_s=0.0)
    yield balancer
    ended(balancer.close)


@pytest.mark.parametrize("rate", [0.0051, 0.01, 0.0199])
def test_a_rate_within_a_factor_of_two_is_the_one_expected(
    balancer: Balancer, drifted: Queue[str], rate: float
) -> None:
    """Nor does a model count of which nothing was expected."""
    balancer.look({"a": 0.01}, lambda: {"a": rate, "new": 9.0})
    balancer.look({"a": 0.01}, lambda: {"a": 0.03})
    assert drifted.get(timeout=LIMIT_S)
    ended(balancer.close)
    assert drifted.empty()


@pytest.mark.parametrize("rate", [0.0, 0.0049, 0.0201])
def test_another_rate_has_drifted(balancer: Balancer, drifted: Queue[str], rate: float) -> None:
    balancer.look({"a": 0.01, "b": 1.0}, lambda: {"a": rate, "b": 1.0})
    assert drifted.get(timeout=LIMIT_S)


def test_it_rests_between_looks() -> None:
    looked: list[str] = []

    def seen() -> dict[str, float]:
        looked.append("looked")
        return {}

    balancer = Balancer(lambda: None, rest_s=1e6)
    balancer.look({}, seen)
    ended(balancer.close)
    assert looked == []


def test_what_can_not_be_done_is_logged_and_tried_again(
    until: Until, caplog: pytest.LogCaptureFixture
) -> None:
    tried: Queue[str] = Queue()

    def fail() -> None:
        tried.put("tried")
        raise MemoryError

    balancer = Balancer(fail, rest_s=0.0)
    for _ in range(2):
        balancer.look({"a": 0.01}, lambda: {"a": 0.9})
        assert tried.get(timeout=LIMIT_S)
    until(lambda: caplog.text.count("the budget keeps its split") == 2)
    ended(balancer.close)


@pytest.fixture
def restless(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runtimes whose balancers never rest."""
    monkeypatch.setattr("swapnet.executor.runtime.runtime.Balancer", partial(Balancer, rest_s=0.0))


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, int]]:
    """Shares that the balancer weighed by the formula, two for each time that rates had drifted."""
    weighed: list[dict[str, int]] = []

    def weigh(_: SimulatedShareRule, claims: Sequence[Claim], shares: Mapping[str, int]) -> float:
        weighed.append(dict(shares))
        return cost_of(claims, shares)

    monkeypatch.setattr("swapnet.executor.runtime.share_rules.MOST_CLAIMS", 0)
    monkeypatch.setattr(SimulatedShareRule, "cost", weigh)
    return weighed


@pytest.mark.usefixtures("restless")
def test_rates_that_drift_move_shares(
    engines: Engines,
    opened: Open,
    until: Until,
    expectations: dict[str, float],
    looks: list[dict[str, int]],
) -> None:
    """Not where little would be saved."""
    runtime = opened(budget_for(*engines.values(), share=0.5))
    models = load_all(runtime, engines, rate_per_s=0.01)
    before = runtime.shares_bytes
    expectations.update(a=0.03, b=0.03, c=0.03)
    engines["a"].ask(models["a"])()
    until(lambda: len(looks) == 2)
    with runtime._balance:
        assert runtime.shares_bytes == before
    engines["a"].ask(models["a"])()
    with runtime._balance:
        assert len(looks) == 2
    expectations.update(a=1e-4, b=0.6, c=1e-4)
    engines["b"].ask(models["b"])()
    until(lambda: len(looks) == 4)
    until(lambda: runtime.shares_bytes["b"] > before["b"])
    with runtime._balance:
        assert runtime.shares_bytes == looks[2]
    with asking(engines, models):
        pass


@pytest.mark.usefixtures("restless")
def test_the_balancer_judges_as_the_rule_does(
    engines: Engines,
    opened: Open,
    until: Until,
    expectations: dict[str, float],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Another split costs more by the formula, and less than half in a simulation."""
    runtime = opened(budget_for(*engines.values(), share=0.5))
    models = load_all(runtime, engines, rate_per_s=0.01)
    other = expected_shares(runtime, engines, "equal")
    assert other != runtime.shares_bytes
    monkeypatch.setattr(SimulatedShareRule, "shares_bytes", lambda *_: other)
    monkeypatch.setattr(
        SimulatedShareRule, "cost", lambda _, __, shares: 1.0 if shares == other else 3.0
    )
    expectations.update(a=0.03)
    engines["a"].ask(models["a"])()
    until(lambda: runtime.shares_bytes == other)


@pytest.mark.usefixtures("restless")
def test_rates_that_are_seen_wake_the_balancer(
    engines: Engines, opened: Open, until: Until, looks: list[dict[str, int]]
) -> None:
    """Without a rest, asked as fast as it goes: more often than once in a thousand seconds."""
    runtime = opened(budget_for(*engines.values(), share=0.5))
    models = load_all(runtime, engines, rate_per_s=1e-3)
    before = runtime.shares_bytes

    def has_moved() -> bool:
        engines["a"].ask(models["a"])()
        return runtime.shares_bytes["a"] > before["a"]

    until(has_moved)
    assert looks
