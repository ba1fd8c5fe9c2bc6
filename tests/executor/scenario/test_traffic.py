"""Requests: seeded, at the rates that were asked for."""

from __future__ import annotations

from typing import Any

import pytest

from swapnet.executor.scenario.traffic import round_arrivals, round_seconds
from tests.executor.scenario.conftest import a_scenario, an_entry

KINDS: Any = ("poisson", "periodic", "bursty")


def test_the_same_seed_gives_the_same_requests() -> None:
    scenario = a_scenario()
    first = round_arrivals(scenario, (3, 1), 20, seed=1, turn=0)
    assert first == round_arrivals(scenario, (3, 1), 20, seed=1, turn=0)
    assert first != round_arrivals(scenario, (3, 1), 20, seed=2, turn=0)
    assert first != round_arrivals(scenario, (3, 1), 20, seed=1, turn=1)


@pytest.mark.parametrize("kind", KINDS)
def test_rates_are_exact_and_requests_in_order(kind: Any) -> None:
    scenario = a_scenario(an_entry(arrivals=kind), an_entry("two", rate_per_s=5.0, arrivals=kind))
    assert round_seconds(scenario, 20) == 10.0
    arrivals = round_arrivals(scenario, (3, 1), 20, seed=0, turn=0)
    assert [sum(a.model == model for a in arrivals) for model in (0, 1)] == [20, 50]
    times = [arrival.due_s for arrival in arrivals]
    assert times == sorted(times)
    assert times[0] >= 0
    assert times[-1] <= 10.0
    assert {a.sample for a in arrivals if a.model == 0} == {0, 1, 2}
    assert {a.sample for a in arrivals if a.model == 1} == {0}


def test_a_request_at_least() -> None:
    scenario = a_scenario(an_entry(rate_per_s=1e-3), an_entry("two", rate_per_s=1.0))
    arrivals = round_arrivals(scenario, (1, 1), 1, seed=0, turn=0)
    assert [sum(a.model == model for a in arrivals) for model in (0, 1)] == [1, 1000]


def test_another_dnn_changes_nothing_for_the_first() -> None:
    one, two = an_entry(rate_per_s=1.0), an_entry("two", rate_per_s=3.0)
    both = round_arrivals(a_scenario(one, two), (2, 2), 30, seed=4, turn=2)
    alone = round_arrivals(a_scenario(one), (2,), 30, seed=4, turn=2)
    assert tuple(a for a in both if a.model == 0) == alone
