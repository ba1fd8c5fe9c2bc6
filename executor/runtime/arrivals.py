"""Seeded requests: when they come, and for which DNN.

``poisson`` requests know nothing of each other; ``periodic`` ones come at equal intervals from a
random phase; ``bursty`` ones are a two-state Markov-modulated Poisson process: a fifth of the time
four times the rate, a quarter of the rate otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

__all__ = ["Arrivals", "Times", "arrival_times", "poisson"]

Arrivals = Literal["poisson", "periodic", "bursty"]
Times = npt.NDArray[np.float64]

_BURST = 4.0
"""Rate in a burst, over the mean rate."""

_CALM = 0.25
"""Rate between bursts, over the mean rate."""

_BURST_SHARE = 0.2
"""Share of time in bursts; with the two rates above it keeps the mean rate."""

_BURST_REQUESTS = 8.0
"""Requests in a burst, on average."""


def poisson(rates_per_s: Sequence[float], requests: int, seed: int) -> Iterator[tuple[float, int]]:
    """Requests of several DNNs, one Poisson process each.

    Parameters
    ----------
    rates_per_s
        Rate of each DNN.
    requests
        Their number over all DNNs; none come if no DNN has a rate.
    seed
        The same one gives the same requests.

    Yields
    ------
    tuple of float and int
        Time in seconds, and the position of the DNN; by time.
    """
    rates = np.array(rates_per_s)
    total = float(rates.sum())
    if not total:
        return
    random = np.random.default_rng(seed)
    times = np.cumsum(random.exponential(1 / total, requests))
    which = np.searchsorted(np.cumsum(rates) / total, random.random(requests), side="right")
    yield from zip(times.tolist(), np.minimum(which, len(rates) - 1).tolist(), strict=True)


def arrival_times(
    kind: Arrivals, rate_per_s: float, seconds: float, random: np.random.Generator
) -> Times:
    """Requests of one DNN within a time, as many as its rate says and at least one.

    Parameters
    ----------
    kind
        The process by which requests follow each other.
    rate_per_s
        Average rate.
    seconds
        Length of the time.
    random
        Source of chance.

    Returns
    -------
    ndarray of float64, shape (requests,)
        In seconds, in order.
    """
    count = max(1, round(rate_per_s * seconds))
    if kind == "periodic":
        return (random.uniform() + np.arange(count, dtype=np.float64)) / rate_per_s
    uniform: Times = np.sort(random.uniform(size=count))
    if kind == "poisson":
        return uniform * seconds
    borders, expected = _bursts(rate_per_s, seconds, random)
    times: Times = np.interp(uniform * expected[-1], expected, borders)
    return times


def _bursts(rate_per_s: float, seconds: float, random: np.random.Generator) -> tuple[Times, Times]:
    """Times at which states change, and requests that are expected until each."""
    burst_s = _BURST_REQUESTS / (_BURST * rate_per_s)
    calm_s = burst_s * (1 - _BURST_SHARE) / _BURST_SHARE
    borders, expected = [0.0], [0.0]
    bursting = random.uniform() < _BURST_SHARE
    while borders[-1] < seconds:
        lasts = random.exponential(burst_s if bursting else calm_s)
        lasts = min(lasts, seconds - borders[-1])
        borders.append(borders[-1] + lasts)
        expected.append(expected[-1] + lasts * (_BURST if bursting else _CALM))
        bursting = not bursting
    return np.array(borders), np.array(expected)
