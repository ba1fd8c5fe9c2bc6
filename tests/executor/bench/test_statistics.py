"""trtexec's percentile rule and summary."""

from __future__ import annotations

from math import inf

import pytest

from swapnet.executor.bench.statistics import percentile, summarise


@pytest.mark.parametrize(
    ("percent", "expected"), [(100, 10.0), (99, 10.0), (90, 9.0), (50, 5.0), (0, 1.0)]
)
def test_percentile_takes_the_last_left(percent: float, expected: float) -> None:
    assert percentile([float(i) for i in range(1, 11)], percent) == expected


def test_percentile_of_nothing_is_infinite() -> None:
    assert percentile([], 99) == inf


def test_summary() -> None:
    summary = summarise([3.0, 1.0, 2.0])
    assert (summary.min, summary.mean, summary.median, summary.max) == (1.0, 2.0, 2.0, 3.0)
