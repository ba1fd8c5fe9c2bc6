"""Summarise latencies by the rules of trtexec."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean, mean, median, pstdev

import msgspec
import numpy as np

from swapnet.errors import InputError

__all__ = [
    "Summary",
    "cv_percent",
    "is_resolved",
    "is_stable",
    "percentile",
    "percentiles_of",
    "summarise",
]

_LAST_ROUNDS = 3
_LARGEST_CHANGE = 1.1
"""Ratio of the largest to the smallest of the last rounds' medians, as for perf_analyzer."""


def percentile(sorted_ms: Sequence[float], percent: float) -> float:
    """A percentile by the rule of trtexec 11.1, to the bit.

    With n values in ascending order, ``int((1 - percent / 100) * n)`` are excluded from the top,
    and the last of the others is the percentile: at ``max(n - 1 - excluded, 0)``. Nothing is
    interpolated. All of it is computed in float32: at n = 100 the percentile 99 excludes
    0.99999905, so none, and is the maximum. 0 gives the minimum, and no values give infinity.

    Source: ``findPercentile`` in TensorRT's ``samples/common/sampleReporting.cpp``.
    """
    if not sorted_ms:
        return float("inf")
    return sorted_ms[max(len(sorted_ms) - 1 - _excluded(len(sorted_ms), percent), 0)]


def percentiles_of(given: str | Sequence[float]) -> tuple[float, ...]:
    """Percentiles, also out of ``90,95,99``.

    Raises
    ------
    InputError
        There are none, or one is no number from 0 to 100.
    """
    try:
        values = tuple(map(float, given.split(",") if isinstance(given, str) else given))
    except ValueError:
        values = ()
    if not values or not all(0 <= value <= 100 for value in values):
        raise InputError(
            f"{given!r} is not a list of percentiles",
            why="percentiles are numbers from 0 to 100 joined by commas",
            hint="write them like 90,95,99",
        )
    return values


def is_resolved(count: int, percent: float) -> bool:
    """Whether a percentile of ``count`` values is another one than their maximum."""
    return percent == 100 or _excluded(count, percent) > 0


def _excluded(count: int, percent: float) -> int:
    share = np.float32(1) - np.float32(percent) / np.float32(100)
    return int(share * np.float32(count))


def cv_percent(values: Sequence[float]) -> float:
    """Coefficient of variation: the population's standard deviation over the mean, in percent."""
    middle = fmean(values)
    return 100 * pstdev(values, middle) / middle if middle else 0.0


def is_stable(medians_ms: Sequence[float]) -> bool:
    """Whether the medians of the last three rounds, or of all if fewer, are within 10 %."""
    last = medians_ms[-_LAST_ROUNDS:]
    return max(last) <= _LARGEST_CHANGE * min(last)


class Summary(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Summary of latencies, in milliseconds.

    Attributes
    ----------
    median
        Mean of the two middle ones where their number is even.
    p90, p95, p99
        Percentiles; see `percentile`.
    cv_percent
        Coefficient of variation; see `cv_percent`.
    """

    min: float
    mean: float
    median: float
    p90: float
    p95: float
    p99: float
    max: float
    cv_percent: float = 0.0


def summarise(latency_ms: Sequence[float]) -> Summary:
    """The summary of at least one latency."""
    ordered = sorted(latency_ms)
    return Summary(
        min=ordered[0],
        mean=mean(ordered),
        median=median(ordered),
        p90=percentile(ordered, 90),
        p95=percentile(ordered, 95),
        p99=percentile(ordered, 99),
        max=ordered[-1],
        cv_percent=cv_percent(ordered),
    )
