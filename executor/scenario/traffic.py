"""Seeded requests of a scenario: when each comes, for which DNN, with which input.

A round lasts as long as the least asked DNN needs for its requests; all others are asked at their
rates meanwhile, each a whole number of times, so that rates are exact and rounds comparable.
``poisson`` requests are a Poisson process, given their number; ``periodic`` ones come at equal
intervals from a random phase; ``bursty`` ones are a two-state Markov-modulated Poisson process,
given their number: a fifth of the time four times the rate, a quarter of it otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from swapnet.executor.scenario.scenario import Entry, Scenario

__all__ = ["Arrival", "round_arrivals", "round_seconds"]

_BURST = 4.0
"""Times the mean rate."""

_CALM = 0.25
_BURST_SHARE = 0.2
"""Of the time: with the rates above the mean is the mean."""

_BURST_REQUESTS = 8.0
"""In a burst, on average."""

Times = npt.NDArray[np.float64]


class Arrival(msgspec.Struct, frozen=True, array_like=True):
    """One request.

    Attributes
    ----------
    due_s
        From the beginning of the round.
    model, sample
        Numbers of the DNN in the scenario, and of one of its inputs.
    """

    due_s: float
    model: int
    sample: int


def round_seconds(scenario: Scenario, requests: int) -> float:
    """How long a round lasts in which each DNN has at least so many requests."""
    return requests / min(entry.rate_per_s for entry in scenario.models)


def round_arrivals(
    scenario: Scenario, samples: Sequence[int], requests: int, seed: int, turn: int
) -> tuple[Arrival, ...]:
    """All requests of one round, by time.

    Parameters
    ----------
    scenario
        DNNs and rates.
    samples
        By DNN: how many inputs there are.
    requests
        Of each DNN, at least.
    seed, turn
        The same requests for the same numbers.
    """
    seconds = round_seconds(scenario, requests)
    arrivals: list[Arrival] = []
    for index, entry in enumerate(scenario.models):
        random = np.random.default_rng((seed, turn, index))
        times = _times(entry, seconds, random)
        choices = random.integers(samples[index], size=len(times))
        arrivals += (
            Arrival(float(time), index, int(choice))
            for time, choice in zip(times, choices, strict=True)
        )
    return tuple(sorted(arrivals, key=lambda arrival: (arrival.due_s, arrival.model)))


def _times(entry: Entry, seconds: float, random: np.random.Generator) -> Times:
    count = max(1, round(entry.rate_per_s * seconds))
    if entry.arrivals == "periodic":
        return (random.uniform() + np.arange(count, dtype=np.float64)) / entry.rate_per_s
    uniform: Times = np.sort(random.uniform(size=count))
    if entry.arrivals == "poisson":
        return uniform * seconds
    borders, expected = _bursts(entry.rate_per_s, seconds, random)
    times: Times = np.interp(uniform * expected[-1], expected, borders)
    return times


def _bursts(rate_per_s: float, seconds: float, random: np.random.Generator) -> tuple[Times, Times]:
    """Where states change, and how many requests are expected until there."""
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
