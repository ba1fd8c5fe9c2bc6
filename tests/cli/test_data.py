"""``--data`` on the commands that take it, from a model to its figures."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from swapnet.manifest import load_manifest
from tests.cli.conftest import Call
from tests.helpers.zoo import Net


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Runs only where ``to`` is a shape that fits ``x``."""
    net = Net()
    value = net("Relu", net.dense(net.input("x", ("n", 64)), 64, 64))
    shaped = net("Reshape", value, net.input("to", (2,), TensorProto.INT64))
    net.output(net.dense(shaped, 64, 64))
    onnx.save(net.model(), tmp_path / "toy.onnx")
    return tmp_path / "toy.onnx"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two samples for it."""
    random = np.random.default_rng(0)
    x = random.standard_normal((2, 4, 64), np.float32)
    np.savez(tmp_path / "inputs.npz", x=x, to=[[4, 64], [-1, 64]])
    return tmp_path / "inputs.npz"


@pytest.mark.slow
def test_from_data_to_a_comparison(call: Call, model: Path, data: Path, tmp_path: Path) -> None:
    engine = tmp_path / "e"
    refused = call("build", model, "-o", engine, "--no-measure")
    assert refused.is_user_error("--data inputs.npz", "numpy.savez('inputs.npz', x=…, to=…)")
    built = call("build", model, "-o", engine, "--data", data, "--no-measure")
    assert built.status == 0
    assert "seeded" not in built.err
    assert "assumed" not in built.err
    assert load_manifest(engine).planned_shapes == {"x": (4, 64), "to": (2,)}
    assert call("run", engine, "--budget", "100%").status == 0
    assert call("measure", engine).status == 0
    report = tmp_path / "report.json"
    options = ("--budget", "100%", "--compare", "--iterations", 1, "--duration", 0, "--warm-up", 0)
    assert call("bench", engine, *options, "--json", report).status == 0
    assert json.loads(report.read_text())["max_rel_error"] < 1e-5


@pytest.mark.slow
def test_plan_takes_data_for_a_model_and_for_an_engine(
    call: Call, model: Path, data: Path, tmp_path: Path
) -> None:
    planned = call("plan", model, "--data", data, "--no-measure")
    assert planned.status == 0
    assert "toy at x: 4x64, to: 2: demand" in planned.out
    call("build", model, "-o", tmp_path / "e", "--data", data, "--no-measure")
    np.savez(tmp_path / "larger.npz", x=np.ones((9, 64), np.float32), to=[9, 64])
    for command in (("plan", "--no-measure"), ("measure",)):
        shown = call(*command, tmp_path / "e", "--data", tmp_path / "larger.npz")
        assert shown.status == 0
        assert "measuring activations at x: 9x64, to: 2" in shown.err
    assert call("run", tmp_path / "e", "--budget", "100%", "--shapes", "x:9x64").status == 0


@pytest.mark.slow
def test_ranges_are_measured_on_data_too(
    call: Call, model: Path, data: Path, tmp_path: Path
) -> None:
    target = tmp_path / "int8.onnx"
    assert call("quantize", model, "-o", target, "--data", data).status == 0
    given = ("--precision", "int8", "--data", data, "--no-measure")
    assert call("build", model, "-o", tmp_path / "e", *given).status == 0
    ranges = ("--calibration", target.with_suffix(".ranges.json"))
    assert call("build", model, "-o", tmp_path / "again", *given, *ranges).status == 0
    assert call("run", tmp_path / "again", "--budget", "100%").status == 0


def test_ranges_are_not_for_fp32(call: Call, model: Path, data: Path, tmp_path: Path) -> None:
    failed = call("build", model, "-o", tmp_path / "e", "--data", data, "--calibration", data)
    assert failed.is_user_error("--calibration is not for fp32")


@pytest.mark.parametrize("command", ["measure", "plan"])
def test_data_for_an_engine_that_is_not_there(call: Call, data: Path, command: str) -> None:
    assert call(command, "nowhere", "--data", data).is_user_error("is not an engine directory")


def test_an_empty_folder_of_data(call: Call, model: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    failed = call("build", model, "-o", tmp_path / "e", "--data", tmp_path / "empty")
    assert failed.is_user_error("no images in", "*.npz")
    assert not (tmp_path / "e").exists()
