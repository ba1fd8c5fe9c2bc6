"""Seeded requests of a scenario: when each comes, for which DNN, with which input.

A round lasts as long as the least asked DNN needs for its requests. All others are asked at their
rates meanwhile, each a whole number of times, so that rates are exact and rounds comparable.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

from swapnet.executor.runtime.arrivals import arrival_times
from swapnet.executor.scenario.scenario import Scenario

__all__ = ["Arrival", "round_arrivals", "round_seconds"]


class Arrival(msgspec.Struct, frozen=True, array_like=True):
    """One request.

    Attributes
    ----------
    due_s
        Time from the beginning of the round.
    model, sample
        Numbers of the DNN in the scenario, and of one of its inputs.
    """

    due_s: float
    model: int
    sample: int


def round_seconds(scenario: Scenario, requests: int) -> float:
    """Length of a round in which each DNN has at least ``requests`` requests."""
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
        Number of inputs of each DNN.
    requests
        Their number for each DNN, at least.
    seed, turn
        The same requests for the same numbers.
    """
    seconds = round_seconds(scenario, requests)
    arrivals: list[Arrival] = []
    for index, entry in enumerate(scenario.models):
        random = np.random.default_rng((seed, turn, index))
        times = arrival_times(entry.arrivals, entry.rate_per_s, seconds, random)
        choices = random.integers(samples[index], size=len(times))
        arrivals += (
            Arrival(float(time), index, int(choice))
            for time, choice in zip(times, choices, strict=True)
        )
    return tuple(sorted(arrivals, key=lambda arrival: (arrival.due_s, arrival.model)))
