"""What a scenario is expected to take: from measured delays, on this storage or another."""

from __future__ import annotations

import pytest

from swapnet.errors import BudgetError
from swapnet.executor.engine import Engine
from swapnet.executor.runtime.memory import together
from swapnet.executor.runtime.split import RULES
from swapnet.executor.scenario.forecast import Candidate, Forecast, candidate, forecast
from swapnet.executor.scenario.scenario import Entry
from tests.helpers.engines import BuildToy

pytestmark = pytest.mark.slow


def candidates(
    engine: BuildToy, storage_bytes_per_s: float | None = None, *, deadline_ms: float = 50.0
) -> list[Candidate]:
    entries = [
        Entry(name="often", engine="images", rate_per_s=20.0, deadline_ms=deadline_ms),
        Entry(name="rare", engine="wide-opset-21", rate_per_s=2.0, priority=3.0),
    ]
    toys = [engine(entry.source) for entry in entries]
    return [
        candidate(entry, Engine.open(toy.folder), storage_bytes_per_s=storage_bytes_per_s)
        for entry, toy in zip(entries, toys, strict=True)
    ]


def by_rule(found: tuple[Forecast, ...]) -> dict[str, Forecast]:
    return {each.rule: each for each in found}


def test_every_way_gets_the_same_requests_and_no_more_memory(engine: BuildToy) -> None:
    dnns = candidates(engine, 2e7)
    weights = [each.curve.engine.manifest.weights_nbytes for each in dnns]
    available = sum(weights) // 2
    budget_bytes = together([each.curve.engine.manifest for each in dnns]).other_bytes + available
    found = forecast(dnns, budget_bytes, requests=200)
    assert found == forecast(dnns, budget_bytes, requests=200)
    ways = by_rule(found)
    assert set(ways) == {*RULES, "unlimited"}
    for rule in RULES:
        assert sum(ways[rule].share_bytes) <= available
        assert ways[rule].weighted_latency_ms > ways["unlimited"].weighted_latency_ms
        # The rare one has 200 requests and three times the weight, the other 2,000.
        often, rare = ways[rule].latency_ms
        mean = (2000 * often + 3 * 200 * rare) / (2000 + 3 * 200)
        assert ways[rule].weighted_latency_ms == pytest.approx(mean)
        assert ways[rule].misses == (0, 0)
    assert all(map(lambda one, all_of_it: one >= all_of_it, ways["unlimited"].share_bytes, weights))


def test_answers_after_a_deadline_are_misses(engine: BuildToy) -> None:
    """Of the one that has a deadline, which is asked ten times as often."""
    dnns = candidates(engine, deadline_ms=1e-3)
    demand = together([each.curve.engine.manifest for each in dnns])
    for way in forecast(dnns, demand.total_bytes, requests=20):
        assert way.misses == (200, 0)


def test_slower_storage_takes_longer(engine: BuildToy) -> None:
    dnns = candidates(engine)
    demand = together([each.curve.engine.manifest for each in dnns])
    budget_bytes = demand.other_bytes + demand.weights_bytes // 2
    fast, slow = (
        by_rule(forecast(candidates(engine, speed), budget_bytes, requests=60))
        for speed in (None, 1e7)
    )
    assert slow["latency"].weighted_latency_ms > fast["latency"].weighted_latency_ms
    assert slow["unlimited"].latency_ms == fast["unlimited"].latency_ms


def test_what_does_not_fit_is_refused(engine: BuildToy) -> None:
    dnns = candidates(engine)
    with pytest.raises(BudgetError, match="often, rare do not fit in 1B together") as caught:
        forecast(dnns, 1)
    smallest_bytes = caught.value.smallest_bytes
    assert smallest_bytes is not None
    assert forecast(dnns, smallest_bytes, requests=10)
    with pytest.raises(BudgetError, match="do not fit"):
        forecast(dnns, smallest_bytes - 1)
