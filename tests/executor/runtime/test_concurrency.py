"""Side by side or in turns: what is measured, and what follows from it."""

from __future__ import annotations

import pytest

from swapnet.executor.inputs import planned_sample
from swapnet.executor.runtime.concurrency import Trial, best_lanes, measure_lanes
from tests.helpers.engines import BuildToy


@pytest.mark.parametrize(
    ("ratios", "count"),
    [({1: 1.0, 2: 0.8}, 2), ({1: 1.0, 2: 0.97}, 1), ({1: 1.0, 2: 1.3}, 1), ({1: 1.0}, 1)],
)
def test_more_lanes_must_be_clearly_faster(ratios: dict[int, float], count: int) -> None:
    assert best_lanes(ratios) == count


@pytest.mark.slow
def test_every_count_is_measured_against_the_first(engine: BuildToy) -> None:
    toys = [engine("images"), engine("dynamic")]
    trials = [Trial(toy.folder, planned_sample(toy.manifest)) for toy in toys]
    ratios = measure_lanes(trials, rounds=2)
    assert ratios[1] == 1.0
    assert ratios[2] > 0
