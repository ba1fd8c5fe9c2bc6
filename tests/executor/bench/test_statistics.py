"""trtexec's percentile rule in float32, the summary, and when rounds agree."""

from __future__ import annotations

from math import inf

import pytest

from swapnet.executor.bench.statistics import (
    cv_percent,
    is_resolved,
    is_stable,
    percentile,
    summarise,
)


@pytest.mark.parametrize(
    ("percent", "expected"), [(100, 10.0), (99, 10.0), (90, 9.0), (50, 5.0), (0, 1.0)]
)
def test_percentile_takes_the_last_left(percent: float, expected: float) -> None:
    assert percentile([float(i) for i in range(1, 11)], percent) == expected


@pytest.mark.parametrize(
    ("count", "percent", "index"),
    [
        (100, 99, 99),
        (101, 99, 99),
        (200, 99, 198),
        (300, 99, 297),
        (1000, 99, 990),
        (1000, 99.9, 999),
        (2000, 99.9, 1998),
        (20, 95, 18),
        (21, 95, 19),
        (10, 90, 8),
        (11, 90, 9),
        (100, 90, 89),
        (4, 75, 2),
        (3, 50, 1),
    ],
)
def test_percentiles_are_those_of_trtexec_in_float32(
    count: int, percent: float, index: int
) -> None:
    """Indices that a C++ compiler gives for trtexec's formula, compiled and run once."""
    assert percentile([float(i) for i in range(count)], percent) == index


def test_percentile_of_nothing_is_infinite() -> None:
    assert percentile([], 99) == inf


def test_a_percentile_stands_on_enough_values_where_it_is_not_the_maximum() -> None:
    assert is_resolved(101, 99)
    assert not is_resolved(100, 99)
    assert is_resolved(2, 50)
    assert is_resolved(1, 100)


def test_summary() -> None:
    summary = summarise([3.0, 1.0, 2.0, 4.0])
    assert (summary.min, summary.mean, summary.median, summary.max) == (1.0, 2.5, 2.5, 4.0)
    assert summary.cv_percent == pytest.approx(100 * 1.25**0.5 / 2.5)


def test_variation_of_nothing_but_zeros_is_none() -> None:
    assert cv_percent([0.0, 0.0]) == 0
    assert cv_percent([7.0]) == 0


@pytest.mark.parametrize(
    ("medians", "expected"),
    [
        ([10.0], True),
        ([10.0, 11.0], True),
        ([10.0, 11.1], False),
        ([99.0, 10.0, 10.5, 11.0], True),
        ([10.0, 10.0, 10.0, 12.0], False),
    ],
)
def test_the_last_three_rounds_decide_on_stability(medians: list[float], expected: bool) -> None:
    assert is_stable(medians) is expected
