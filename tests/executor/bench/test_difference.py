"""How far outputs are apart."""

from __future__ import annotations

from math import inf, nan

import numpy as np
import pytest

from swapnet.executor.bench.difference import largest_difference


@pytest.mark.parametrize(
    ("ours", "theirs", "expected"),
    [
        ([1.0, 2.0], [1.0, 2.0], (0.0, 0.0)),
        ([1.0, 2.0], [1.0, 4.0], (2.0, 0.5)),
        ([nan, 2.0], [nan, 2.0], (0.0, 0.0)),
        ([inf, 2.0], [inf, 2.0], (0.0, 0.0)),
        ([0.5], [0.0], (0.5, 0.5)),
        ([], [], (0.0, 0.0)),
    ],
)
def test_absolute_and_relative(
    ours: list[float], theirs: list[float], expected: tuple[float, float]
) -> None:
    assert largest_difference({"y": np.array(ours)}, {"y": np.array(theirs)}) == expected


def test_nan_in_one_place_only_is_no_small_matter() -> None:
    absolute, _ = largest_difference({"y": np.array([nan])}, {"y": np.array([1.0])})
    assert absolute > 1e300
