from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swapnet.executor.runtime.rates import RateMeter

RATES = st.just(0.0) | st.floats(1e-3, 1e3)


def test_what_is_expected_counts_until_requests_come() -> None:
    meter = RateMeter(4.0, 10.0)
    assert meter.rate_per_s(0.0) == meter.rate_per_s(1e6) == 4.0
    assert meter.next_s == 10.25


def test_nothing_is_expected_of_a_rate_of_zero() -> None:
    meter = RateMeter(0.0)
    assert meter.rate_per_s(5.0) == 0.0
    assert meter.next_s == math.inf
    meter.note(5.0)
    assert meter.rate_per_s(6.0) == 0.0
    meter.note(5.5)
    assert meter.rate_per_s(5.5) == 2.0


@pytest.mark.parametrize("expected", [0.0, 0.1, 100.0])
def test_a_steady_rate_is_seen(expected: float) -> None:
    meter = RateMeter(expected)
    for request in range(200):
        meter.note(request * 0.2)
    assert meter.rate_per_s(199 * 0.2) == pytest.approx(5.0, rel=0.05)
    assert meter.next_s == pytest.approx(200 * 0.2, rel=0.01)


def test_a_model_that_is_asked_no_more_is_seen_to_be_so() -> None:
    meter = RateMeter(10.0)
    for request in range(100):
        meter.note(request / 10)
    rates = [meter.rate_per_s(9.9 + pause_s) for pause_s in (0.1, 1.0, 10.0, 100.0, 1000.0)]
    assert rates[0] == pytest.approx(10.0)
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] < 0.01


@given(expected=RATES, pauses_s=st.lists(st.floats(0, 1e4), max_size=30), later_s=st.floats(0, 1e5))
def test_rates_are_always_possible(expected: float, pauses_s: list[float], later_s: float) -> None:
    meter = RateMeter(expected)
    now_s = 0.0
    for pause_s in pauses_s:
        now_s += pause_s
        meter.note(now_s)
        assert meter.next_s >= now_s
    rate = meter.rate_per_s(now_s + later_s)
    assert math.isfinite(rate)
    assert 0.0 <= rate <= meter.rate_per_s(now_s) * (1 + 1e-9)
