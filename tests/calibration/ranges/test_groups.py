"""Which tensors are observed together."""

from __future__ import annotations

import pytest

from swapnet.budget import Budget
from swapnet.calibration.ranges.groups import group_limit, group_tensors

TENSORS = [("a", 5), ("b", 5), ("c", 11), ("d", 1), ("e", 9)]


def test_groups_are_as_large_as_the_limit_allows() -> None:
    assert list(group_tensors(TENSORS, 10)) == [("a", "b"), ("c",), ("d", "e")]


def test_one_group_without_a_limit() -> None:
    assert list(group_tensors(TENSORS, None)) == [("a", "b", "c", "d", "e")]
    assert list(group_tensors([], None)) == []


@pytest.mark.parametrize(
    ("written", "limit"),
    [("100%", None), ("weights:100%", None), ("50%", 250), ("weights:25%", 250), (1000, 250)],
)
def test_a_group_takes_a_quarter_of_the_budget(written: str | int, limit: int | None) -> None:
    assert group_limit(Budget.parse(written), 1000) == limit
