"""Summarise latencies by the rules of trtexec."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean, median

import msgspec

__all__ = ["Summary", "percentile", "summarise"]


def percentile(sorted_ms: Sequence[float], percent: float) -> float:
    """The nearest rank below ``percent``, without interpolation; infinity for no values.

    The rule of trtexec (``sampleReporting.cpp``): drop the rest from the top, take the last left.
    """
    if not sorted_ms:
        return float("inf")
    excluded = int(round((1 - percent / 100) * len(sorted_ms), 9))
    return sorted_ms[max(len(sorted_ms) - 1 - excluded, 0)]


class Summary(msgspec.Struct, frozen=True):
    """Summary of latencies, in milliseconds."""

    min: float
    mean: float
    median: float
    p90: float
    p95: float
    p99: float
    max: float


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
    )
