"""An engine at the shapes of real inputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from swapnet.builder import build
from swapnet.calibration import ensure_shapes
from swapnet.errors import InputError, ModelError
from swapnet.executor import SwapExecutor
from swapnet.executor.backends.onnxruntime import names_shapes
from swapnet.executor.engine import Engine
from swapnet.executor.samples import kept_samples
from tests.helpers.zoo import Net

pytestmark = pytest.mark.slow


@pytest.fixture
def repeating(tmp_path: Path) -> Path:
    """An engine that repeats each of ``rows`` as often as ``times`` says; built for 2 rows."""
    net = Net()
    rows = net.dense(net.input("rows", ("n", 64)), 64, 64)
    times = net.input("times", (2,), TensorProto.INT64)
    net.output(net("Relu", net.dense(net("Tile", rows, times), 64, 64)))
    onnx.save(net.model(), tmp_path / "toy.onnx")
    build(tmp_path / "toy.onnx", tmp_path / "e", shapes={"rows": (2, 64)})
    return tmp_path / "e"


def feed(rows: int, times: int) -> dict[str, Any]:
    return {
        "rows": np.random.default_rng(rows).standard_normal((rows, 64), np.float32),
        "times": np.array([times, 1]),
    }


def test_sizes_are_those_of_the_data(repeating: Path) -> None:
    said: list[str] = []
    data = [feed(3, 2), feed(5, 400), feed(5, 1)]
    engine = ensure_shapes(repeating, data=data, say=said.append)
    assert engine.manifest.planned_shapes == {"rows": (5, 64), "times": (2,)}
    assert [tensor.nbytes for tensor in engine.manifest.outputs] == [2000 * 64 * 4]
    assert "measuring activations at rows: 5x64, times: 2" in said[0]
    with SwapExecutor(engine, "100%") as executor:
        assert [len(next(iter(executor(sample).values()))) for sample in data] == [6, 2000, 5]
    again = Engine.open(repeating, shapes={"rows": (5, 64)})
    assert {len(sample["rows"]) for sample in kept_samples(again)} == {3, 5}
    assert kept_samples(Engine.open(repeating)) == ()


def test_larger_shapes_than_the_data_has_are_measured(repeating: Path) -> None:
    engine = ensure_shapes(repeating, {"rows": (7, 64)}, data=feed(3, 2))
    assert [tensor.nbytes for tensor in engine.manifest.outputs] == [14 * 64 * 4]
    with pytest.raises(InputError, match="the data is larger than --shapes"):
        ensure_shapes(repeating, {"rows": (2, 64)}, data=feed(3, 2))


def test_data_of_the_shapes_of_the_build_is_kept_and_memory_stays(repeating: Path) -> None:
    said: list[str] = []
    before = Engine.open(repeating).manifest
    engine = ensure_shapes(repeating, data=feed(2, 9), say=said.append)
    assert engine.manifest == before
    assert [sample["times"].tolist() for sample in kept_samples(engine)] == [[9, 1]]
    assert "memory is planned as in its build" in said[0]


def test_shapes_that_do_not_run_on_seeded_inputs_need_data(tmp_path: Path) -> None:
    net = Net()
    value = net.dense(net.input("x", ("n", 64)), 64, 64)
    net.output(net("Reshape", value, net.input("to", (2,), TensorProto.INT64)))
    onnx.save(net.model(), tmp_path / "toy.onnx")
    given = {"x": np.ones((4, 64), np.float32), "to": np.array([-1, 32])}
    build(tmp_path / "toy.onnx", tmp_path / "e", data=given)
    with pytest.raises(ModelError, match="does not run at") as caught:
        ensure_shapes(tmp_path / "e", {"x": (8, 64)}, say=lambda _: None)
    assert f"swapnet measure {tmp_path / 'e'} --data inputs.npz" in caught.value.hint


def test_data_that_does_not_run_is_not_kept(repeating: Path) -> None:
    with pytest.raises(ModelError, match="does not run"):
        ensure_shapes(repeating, data=feed(3, -1))
    assert not list(repeating.glob("shapes/samples-*/*"))


def test_what_is_made_of_samples_is_left_out_where_it_does_not_run(tmp_path: Path) -> None:
    net = Net()
    past, new = net.input("past", ("p", 64)), net.input("new", ("n", 64))
    both = net("Concat", past, new, axis=0)
    net.output(net.dense(net("Mul", both, net.input("mask", ("t", 1))), 64, 64))
    onnx.save(net.model(), tmp_path / "toy.onnx")

    def step(p: int, n: int) -> dict[str, Any]:
        arrays = {"past": (p, 64), "new": (n, 64), "mask": (p + n, 1)}
        return {name: np.ones(shape, np.float32) for name, shape in arrays.items()}

    build(tmp_path / "toy.onnx", tmp_path / "e", data=step(1, 1))
    engine = ensure_shapes(tmp_path / "e", data=[step(0, 20), step(30, 1)])
    rows = 30 + 20 if names_shapes() else 31  # by a formula, p and n may both be the largest
    assert [tensor.nbytes for tensor in engine.manifest.outputs] == [rows * 64 * 4]
    assert {len(sample["mask"]) for sample in kept_samples(engine)} == {20, 31}
