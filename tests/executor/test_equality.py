"""Every toy, executed at several budgets, gives what the whole model gives."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from swapnet.executor import SwapExecutor
from tests.helpers.engines import Arrays, Engine, poison


def assert_near(found: Arrays, expected: Arrays, tolerance: float) -> None:
    """Within ``tolerance`` of each output's largest magnitude; 0 means the same bits."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert (found[name].shape, found[name].dtype) == (value.shape, value.dtype)
        if tolerance:
            limit = tolerance * np.abs(value).max()
            np.testing.assert_allclose(found[name], value, rtol=0, atol=limit, err_msg=name)
        else:
            np.testing.assert_array_equal(found[name], value, err_msg=name)


def test_outputs_equal_the_whole_model(small_zoo: Engine, tmp_path: Path) -> None:
    toy, demand, smallest = small_zoo.toy, small_zoo.demand, small_zoo.smallest
    inputs = [small_zoo.feeds(seed) for seed in (0, 1)]
    whole = [small_zoo.whole(feeds, tmp_path) for feeds in inputs]
    for feeds, expected in zip(inputs, whole, strict=True):
        assert_near(expected, small_zoo.original(feeds), 1e-4)
    for budget in (smallest, (smallest + demand) // 2, demand):
        with SwapExecutor(small_zoo.folder, budget, before_read=poison) as executor:
            assert executor.plan.planned_bytes <= budget
            for feeds, expected in zip(inputs * 2, whole * 2, strict=True):
                assert_near(executor(feeds), expected, 1e-6 if toy.sliced else 0)


def test_everything_fits_at_the_demand(small_zoo: Engine) -> None:
    with SwapExecutor(small_zoo.folder, "100%") as executor:
        executor(small_zoo.feeds())
        assert executor.plan.streamed_bytes == 0
