"""A split on the virtual clock costs what its requests take."""

from __future__ import annotations

import pytest

from swapnet.executor.runtime.rehearsal import rehearse
from swapnet.executor.runtime.split import Claim, Option

SELDOM = 1e-3


def alone(option: Option, **terms: float) -> float:
    """Of requests that never meet."""
    return rehearse([Claim("one", (option,), rate_per_s=SELDOM, **terms)], {"one": option.nbytes})


def test_what_nobody_waits_for_takes_its_latency() -> None:
    assert alone(Option(1, 40.0)) == pytest.approx(40.0)
    assert alone(Option(1, 50.0, 40.0, 40.0)) == pytest.approx(50.0)


def test_reading_that_a_ring_does_not_hold_is_waited_for() -> None:
    options = [Option(1, 60.0, 60.0, held) for held in (0.0, 30.0, 60.0)]
    fast = Option(2, 10.0)
    costs = [
        rehearse([Claim("one", (option, fast), rate_per_s=SELDOM)], {"one": 1})
        for option in options
    ]
    assert costs == sorted(costs, reverse=True)
    assert costs[0] > 50.0
    assert costs[-1] == pytest.approx(10.0)


@pytest.mark.parametrize("held_ms", [0.0, 5.0, 20.0])
def test_an_option_alone_takes_its_latency_however_small_its_ring(held_ms: float) -> None:
    """Reading goes on while the processor computes, also where a ring holds less than a step."""
    small, whole = Option(1, 440.0, 430.0, held_ms), Option(2, 90.0)
    claim = Claim("one", (small, whole), rate_per_s=SELDOM)
    prefetched_ms = 430.0 / 12
    assert rehearse([claim], {"one": 1}) == pytest.approx(440.0 - prefetched_ms, rel=0.03)


def test_late_answers_cost_more() -> None:
    assert alone(Option(1, 40.0), deadline_ms=40.0) == pytest.approx(40.0)
    assert alone(Option(1, 40.0), deadline_ms=20.0) == pytest.approx(80.0)


def test_priorities_weigh() -> None:
    claims = [
        Claim("fast", (Option(1, 10.0),), priority=3.0, rate_per_s=SELDOM),
        Claim("slow", (Option(1, 50.0),), priority=1.0, rate_per_s=SELDOM),
    ]
    assert rehearse(claims, {"fast": 1, "slow": 1}) == pytest.approx(20.0, rel=0.1)


def test_others_are_waited_for() -> None:
    """Half of the processor's time is another engine's."""
    busy = [Claim(name, (Option(1, 50.0),), rate_per_s=5.0) for name in ("one", "two")]
    assert rehearse(busy, {"one": 1, "two": 1}) > 60.0


def test_lanes_and_policy_are_those_of_the_runtime() -> None:
    """Two lanes let both compute; the shorter one goes first."""
    busy = [
        Claim("long", (Option(1, 90.0),), rate_per_s=4.0),
        Claim("short", (Option(1, 30.0),), rate_per_s=15.0),
    ]
    shares = {"long": 1, "short": 1}
    alone = rehearse(busy, shares)
    assert rehearse(busy, shares, lanes=2) < 0.7 * alone
    assert rehearse(busy, shares, policy="shortest") < 0.9 * alone


def test_the_option_that_fits_counts() -> None:
    claim = Claim("one", (Option(1, 90.0, 90.0), Option(10, 20.0)), rate_per_s=SELDOM)
    assert rehearse([claim], {"one": 9}) > 2 * rehearse([claim], {"one": 10})


def test_nothing_asked_costs_nothing() -> None:
    assert rehearse([Claim("one", (Option(1, 40.0),), rate_per_s=0.0)], {"one": 1}) == 0.0
