"""Two executors over the same weights in memory."""

from __future__ import annotations

from contextlib import ExitStack

import numpy as np
import pytest

from swapnet.budget import Budget
from swapnet.executor.engine import Engine
from swapnet.executor.executor import SwapExecutor
from swapnet.executor.planning.plan import PlanOptions
from swapnet.executor.probing.twin import Twin
from swapnet.executor.swapping.storage import LoadMode
from tests.helpers.engines import BuildToy

APART = PlanOptions(merge=False)


@pytest.mark.parametrize("name", ["images", "used-twice", "lookups"])
def test_a_twin_computes_with_the_weights_of_the_other(engine: BuildToy, name: str) -> None:
    toy = engine(name)
    opened, budget, mode = Engine.open(toy.folder), Budget.parse("100%"), LoadMode.AUTO
    with ExitStack() as stack:
        merged = stack.enter_context(SwapExecutor(opened, budget, load_mode=mode))
        apart = stack.enter_context(
            Twin(opened, budget, other=merged, load_mode=mode, options=APART)
        )
        assert apart._opened().arena is merged._opened().arena
        for seed in range(2):
            feeds = toy.feeds(seed)
            first, second = merged(feeds), apart(feeds)
            for output in first:
                assert np.array_equal(first[output], second[output], equal_nan=True)


def test_a_twin_that_streams_holds_its_own(engine: BuildToy) -> None:
    toy = engine("images")
    opened, budget, mode = Engine.open(toy.folder), Budget(toy.smallest), LoadMode.AUTO
    with (
        SwapExecutor(opened, budget, load_mode=mode) as merged,
        Twin(opened, budget, other=merged, load_mode=mode, options=APART) as apart,
    ):
        assert apart._opened().arena is not merged._opened().arena
        feeds = toy.feeds()
        for output, array in merged(feeds).items():
            assert np.array_equal(array, apart(feeds)[output])
