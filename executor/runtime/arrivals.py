"""Made-up requests for simulated DNNs: when they come, and for which."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from heapq import merge
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from swapnet.executor.runtime.simulate import SimulatedModel

__all__ = ["ARRIVALS", "bursty", "poisson"]

_CHUNK = 1 << 16
"""Requests that are drawn at once."""

_FACTOR = 4.0
"""Rate in a burst, over the mean rate."""

_BURSTS = 0.2
"""Share of time in bursts; between them the rate is what keeps the mean."""

_REQUESTS_PER_BURST = 10.0


def poisson(
    models: Sequence[SimulatedModel], requests: int, seed: int
) -> Iterator[tuple[float, int]]:
    """Requests that know nothing of each other.

    Parameters
    ----------
    models
        With their rates.
    requests
        Of all models together; none come if no model has a rate.
    seed
        The same one gives the same requests.

    Yields
    ------
    tuple of float and int
        Time in seconds, and the position of the model; by time.
    """
    rates = np.array([model.rate_per_s for model in models])
    total = float(rates.sum())
    if not total:
        return
    rng = np.random.default_rng(seed)
    ends = np.cumsum(rates) / total
    now_s = 0.0
    for start in range(0, requests, _CHUNK):
        count = min(_CHUNK, requests - start)
        times = now_s + np.cumsum(rng.exponential(1 / total, count))
        which = np.searchsorted(ends, rng.random(count), side="right")
        now_s = float(times[-1])
        yield from zip(times.tolist(), np.minimum(which, len(rates) - 1).tolist(), strict=True)


def bursty(
    models: Sequence[SimulatedModel], requests: int, seed: int
) -> Iterator[tuple[float, int]]:
    """Requests in bursts, of each model on its own; parameters and order are those of `poisson`.

    Notes
    -----
    Each model is a Markov-modulated Poisson process of two states: in bursts, a fifth of the time
    and ten requests long on average, requests come four times as often as on average.
    """
    generators = np.random.default_rng(seed).spawn(len(models))
    streams = (
        _bursts(model.rate_per_s, index, rng)
        for index, (model, rng) in enumerate(zip(models, generators, strict=True))
        if model.rate_per_s
    )
    yield from islice(merge(*streams), requests)


def _bursts(rate_per_s: float, index: int, rng: np.random.Generator) -> Iterator[tuple[float, int]]:
    """Dwell times, and in each as many requests as come, at times that are uniform in it."""
    fast, slow = _FACTOR, (1 - _BURSTS * _FACTOR) / (1 - _BURSTS)
    dwell_s = _REQUESTS_PER_BURST / (_FACTOR * rate_per_s)
    between_s = dwell_s * (1 - _BURSTS) / _BURSTS
    cycles = 32
    now_s = 0.0
    in_burst = rng.random() < _BURSTS
    while True:
        means = np.tile([dwell_s, between_s] if in_burst else [between_s, dwell_s], cycles)
        factors = np.tile([fast, slow] if in_burst else [slow, fast], cycles)
        lengths = rng.exponential(means)
        counts = rng.poisson(lengths * factors * rate_per_s)
        starts = now_s + np.cumsum(lengths) - lengths
        times = np.repeat(starts, counts) + rng.random(int(counts.sum())) * np.repeat(
            lengths, counts
        )
        times.sort()
        now_s += float(lengths.sum())
        for time_s in times.tolist():
            yield time_s, index


ARRIVALS: Mapping[str, Callable[[Sequence[SimulatedModel], int, int], Iterator[tuple[float, int]]]]
ARRIVALS = {"poisson": poisson, "bursty": bursty}
"""By name."""
