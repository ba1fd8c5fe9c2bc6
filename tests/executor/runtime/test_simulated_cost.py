"""A split on the virtual clock costs what its requests take."""

from __future__ import annotations

import pytest

from swapnet.executor.runtime.simulated_cost import simulated_cost
from swapnet.executor.runtime.split import Claim, Option

SELDOM = 1e-3


def alone(option: Option, **objectives: float) -> float:
    """Of requests that never meet."""
    return simulated_cost(
        [Claim("one", (option,), rate_per_s=SELDOM, **objectives)], {"one": option.nbytes}
    )


def test_what_nobody_waits_for_takes_its_latency() -> None:
    assert alone(Option(1, 40.0)) == pytest.approx(40.0)
    assert alone(Option(1, 50.0, 40.0, 40.0)) == pytest.approx(50.0)


def test_reading_that_a_ring_does_not_hold_is_waited_for() -> None:
    options = [Option(1, 60.0, 60.0, held) for held in (0.0, 30.0, 60.0)]
    fast = Option(2, 10.0)
    costs = [
        simulated_cost([Claim("one", (option, fast), rate_per_s=SELDOM)], {"one": 1})
        for option in options
    ]
    assert costs == sorted(costs, reverse=True)
    assert costs[0] > 50.0
    assert costs[-1] == pytest.approx(10.0)


@pytest.mark.parametrize(
    ("compute_ms", "held_ms", "before_ms"),
    [
        (90.0, 0.0, 430 / 12),
        (90.0, 20.0, 430 / 12),
        (90.0, 86.0, 86.0),
        (90.0, 430 * 4 / 9, 430 * 4 / 9),
        (240.0, 20.0, 430 / 12),
        (400.0, 20.0, 430 / 20),
    ],
)
def test_an_option_alone_takes_its_latency_less_what_was_read_before(
    compute_ms: float, held_ms: float, before_ms: float
) -> None:
    """Reading goes on while the processor computes, however small the ring is."""
    small, whole = Option(1, 440.0, 430.0, held_ms), Option(2, compute_ms)
    claim = Claim("one", (small, whole), rate_per_s=SELDOM)
    assert simulated_cost([claim], {"one": 1}) == pytest.approx(440.0 - before_ms, rel=0.05)


def test_an_option_that_computes_all_the_time_takes_its_latency() -> None:
    small, whole = Option(1, 1010.0, 430.0, 20.0), Option(2, 1000.0)
    claim = Claim("one", (small, whole), rate_per_s=SELDOM)
    assert simulated_cost([claim], {"one": 1}) == pytest.approx(1010.0, rel=0.03)


def test_a_small_ring_does_not_overload_storage() -> None:
    """Of 2 a second each reads 432 ms and computes 85: in turns that is more than there is."""
    options = (Option(1, 437.0, 432.0, 22.0), Option(2, 362.0, 356.0, 18.0), Option(9, 85.0))
    vehicles = Claim("vehicles", options, rate_per_s=2.0, deadline_ms=400.0)
    characters = Claim(
        "characters",
        (Option(1, 75.0, 27.0, 6.0), Option(2, 64.0)),
        rate_per_s=2.0,
        deadline_ms=200.0,
        priority=2.0,
    )
    claims = [vehicles, characters]
    whole_characters = simulated_cost(claims, {"vehicles": 1, "characters": 2})
    assert whole_characters < simulated_cost(claims, {"vehicles": 2, "characters": 1})


def test_late_answers_cost_more() -> None:
    assert alone(Option(1, 40.0), deadline_ms=40.0) == pytest.approx(40.0)
    assert alone(Option(1, 40.0), deadline_ms=20.0) == pytest.approx(80.0)


def test_priorities_weigh() -> None:
    claims = [
        Claim("fast", (Option(1, 10.0),), priority=3.0, rate_per_s=SELDOM),
        Claim("slow", (Option(1, 50.0),), priority=1.0, rate_per_s=SELDOM),
    ]
    assert simulated_cost(claims, {"fast": 1, "slow": 1}) == pytest.approx(20.0, rel=0.1)


def test_others_are_waited_for() -> None:
    """Half of the processor's time is another engine's."""
    busy = [Claim(name, (Option(1, 50.0),), rate_per_s=5.0) for name in ("one", "two")]
    assert simulated_cost(busy, {"one": 1, "two": 1}) > 60.0


def test_lanes_and_policy_are_those_of_the_runtime() -> None:
    """Two lanes let both compute; the shorter one goes first."""
    busy = [
        Claim("long", (Option(1, 90.0),), rate_per_s=4.0),
        Claim("short", (Option(1, 30.0),), rate_per_s=15.0),
    ]
    shares = {"long": 1, "short": 1}
    alone = simulated_cost(busy, shares)
    assert simulated_cost(busy, shares, lanes=2) < 0.7 * alone
    assert simulated_cost(busy, shares, policy="shortest") < 0.9 * alone


def test_the_option_that_fits_counts() -> None:
    claim = Claim("one", (Option(1, 90.0, 90.0), Option(10, 20.0)), rate_per_s=SELDOM)
    assert simulated_cost([claim], {"one": 9}) > 2 * simulated_cost([claim], {"one": 10})


def test_nothing_asked_costs_nothing() -> None:
    assert simulated_cost([Claim("one", (Option(1, 40.0),), rate_per_s=0.0)], {"one": 1}) == 0.0
