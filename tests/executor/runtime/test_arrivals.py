"""Requests: seeded, in order, at the rates that were asked for."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from swapnet.executor.runtime.arrivals import Arrivals, arrival_times, poisson

KINDS: tuple[Arrivals, ...] = ("poisson", "periodic", "bursty")


def test_requests_of_several_have_the_rates_that_were_asked_for() -> None:
    rates = [2.0, 0.0, 8.0]
    arrivals = list(poisson(rates, 100_000, 3))
    assert arrivals == list(poisson(rates, 100_000, 3))
    assert arrivals != list(poisson(rates, 100_000, 4))
    assert len(arrivals) == 100_000
    assert all(one[0] <= other[0] for one, other in pairwise(arrivals))
    counts = np.bincount([index for _, index in arrivals], minlength=3)
    assert counts[1] == 0
    assert counts[0] == pytest.approx(20_000, rel=0.05)
    assert arrivals[-1][0] == pytest.approx(10_000, rel=0.05)


def test_nothing_comes_without_rates() -> None:
    assert list(poisson([0.0], 10, 0)) == list(poisson([], 10, 0)) == []


@pytest.mark.parametrize("kind", KINDS)
def test_requests_of_one_are_as_many_as_its_rate_says(kind: Arrivals) -> None:
    for rate_per_s, expected in ((2.0, 20), (1e-3, 1)):
        times = arrival_times(kind, rate_per_s, 10.0, np.random.default_rng(0))
        assert len(times) == expected
        assert (np.diff(times) >= 0).all()
        assert times[0] >= 0


def test_bursts_vary_more_than_chance_and_periods_not_at_all() -> None:
    def spread(kind: Arrivals) -> float:
        """Variance over mean of the requests in equal intervals: 1 for a Poisson process."""
        times = arrival_times(kind, 10.0, 400.0, np.random.default_rng(3))
        counts, _ = np.histogram(times, bins=200, range=(0.0, 400.0))
        return float(counts.var() / counts.mean())

    assert spread("periodic") < 0.1
    assert 0.7 < spread("poisson") < 1.4
    assert spread("bursty") > 2.0
