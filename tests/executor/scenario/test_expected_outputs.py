"""Outputs are the same, near enough where requests were joined, or wrong."""

from __future__ import annotations

import numpy as np
import pytest

from swapnet.arrays import Array
from swapnet.executor.scenario.expected_outputs import ExpectedOutputs

EXPECTED: dict[str, Array] = {"y": np.array([1.0, -4.0], np.float32)}


@pytest.mark.parametrize(
    ("outputs", "near"),
    [
        ({"y": np.array([1.00001, -4.0], np.float32)}, True),
        ({"y": np.array([1.001, -4.0], np.float32)}, False),
        ({"y": np.array([1.0, -4.0], np.float64)}, False),
        ({"y": np.array([[1.0, -4.0]], np.float32)}, False),
        ({"z": EXPECTED["y"]}, False),
    ],
)
@pytest.mark.parametrize("joined", [True, False])
def test_only_joined_requests_may_differ(
    outputs: dict[str, Array], near: bool, joined: bool
) -> None:
    answers = ExpectedOutputs([joined])
    answers.expect((0, 0, "a"), EXPECTED)
    answers.judge({(0, 0, "b"): outputs})
    assert answers.are_right((0, 0, "a"))
    assert answers.are_right((0, 0, "b")) == (near and joined)
    assert not answers.are_right((0, 1, "a"))
    assert answers.known[0] == (0, 0, "a")
