"""Inputs for engines, and what a worker needs beside its budget."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from swapnet.budget import Budget
from swapnet.builder import build
from swapnet.executor.device import Device
from swapnet.executor.engine import Engine as Opened
from swapnet.executor.runtime.batching import largest_batch
from swapnet.executor.scenario.experiment_options import ExperimentOptions, Part, samples_for
from tests.executor.scenario.conftest import MIB, a_scenario, an_entry
from tests.helpers.engines import BuildToy, Engine
from tests.helpers.zoo import Net


@pytest.fixture
def toy(engine: BuildToy) -> Engine:
    """A small convolutional model."""
    return engine("images")


def test_given_inputs_are_taken_where_they_fit(toy: Engine) -> None:
    given = {name: np.stack([array] * 5) for name, array in toy.feeds().items()}
    found = samples_for(toy.manifest, given, 3)
    assert all(np.array_equal(found[name], array[:3]) for name, array in given.items())


@pytest.mark.parametrize("given", [{}, {"unheard of": np.zeros((2, 1))}])
def test_else_they_are_seeded(toy: Engine, given: Any) -> None:
    found = samples_for(toy.manifest, given, 3)
    shapes = {name: (3, *array.shape) for name, array in toy.feeds().items()}
    assert {name: array.shape for name, array in found.items()} == shapes
    again = samples_for(toy.manifest, given, 3)
    assert all(np.array_equal(found[name], again[name]) for name in found)


def test_requests_that_can_be_joined_have_one_row(tmp_path: Path) -> None:
    net = Net()
    net.output(net("Relu", net.dense(net.input("x", ("rows", 8)), 8, 8)))
    onnx.save_model(net.model(), tmp_path / "toy.onnx")
    for rows, taken in ((4, 1), (1, 1)):
        manifest = build(tmp_path / "toy.onnx", tmp_path / f"{rows}", shapes={"x": (rows, 8)})
        assert largest_batch(manifest) == rows
        assert samples_for(manifest, {}, 2)["x"].shape == (2, taken, 8)
        given = {"x": np.ones((5, 1, 8), np.float32)}
        assert samples_for(manifest, given, 2)["x"].tolist() == given["x"][:2].tolist()


def test_what_a_worker_needs(toy: Engine) -> None:
    samples = samples_for(toy.manifest, {}, 2)
    part = Part(an_entry(), Opened.open(toy.folder).in_child(), samples)
    assert part.count == 2
    options = ExperimentOptions(
        name="device",
        scenario=a_scenario(),
        parts=(part, part),
        budget=Budget(64 * MIB),
        one_operator=Path("none"),
        device=Device(1),
        budget_steps="0.5:50%",
        requests=10,
        rounds=4,
    )
    assert options.steps[0].budget_bytes == 32 * MIB
    assert options.round_requests == 3
    assert options.round_seconds == 1.5
    assert options.unlimited_bytes >= options.demand.total_bytes
    held = sum(tensor.nbytes for tensor in toy.manifest.outputs)
    inputs = sum(array.nbytes for array in samples.values())
    assert options.traffic_bytes >= 2 * inputs + 2 * held
    assert options.arrivals(0) != options.arrivals(1)
