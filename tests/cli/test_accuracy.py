"""``swapnet accuracy``."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from swapnet.arrays import save_npz
from tests.cli.conftest import Call
from tests.helpers.engines import Engine


@pytest.fixture
def data(toy: Engine, tmp_path: Path) -> Path:
    """Three samples of it."""
    feeds = [toy.feeds(seed) for seed in range(3)]
    path = tmp_path / "data.npz"
    save_npz(path, {name: np.stack([feed[name] for feed in feeds]) for name in feeds[0]})
    return path


@pytest.fixture
def coarse(toy: Engine, tmp_path: Path) -> Path:
    """The same with the weights of its second convolution rounded to multiples of 1/4."""
    model = onnx.load(toy.model)
    convolution = [node for node in model.graph.node if node.op_type == "Conv"][1]
    for tensor in model.graph.initializer:
        if tensor.name == convolution.input[1]:
            values = np.rint(onnx.numpy_helper.to_array(tensor) * 4) / np.float32(4)
            tensor.CopyFrom(onnx.numpy_helper.from_array(values.astype(np.float32), tensor.name))
    path = tmp_path / "coarse.onnx"
    onnx.save(model, path)
    return path


def test_an_engine_is_compared(call: Call, toy: Engine, data: Path) -> None:
    shown = call(
        *("accuracy", toy.model, toy.folder, "--data", data, "--limit", 2, "--task", "values"),
        *("--budget", toy.smallest, "--threads", 1),
    )
    assert shown.status == 0
    assert "2 of 2" in shown.out


def test_layers_are_compared(
    call: Call, toy: Engine, coarse: Path, data: Path, tmp_path: Path
) -> None:
    target = tmp_path / "found.json"
    shown = call(
        *("accuracy", toy.model, coarse, "--data", data, "--task", "values", "--threads", 1),
        *("--per-layer", "--layer-samples", 2, "--json", target),
    )
    assert shown.status == 0, shown.err
    found = json.loads(target.read_text())
    assert found["schema"] == "swapnet-accuracy/1"
    assert (found["samples"], found["layer_samples"]) == (3, 2)
    worst = found["suggested"][0]
    assert f"--exclude {worst}" in shown.out
    layers = {layer["operator"]: layer for layer in found["layers"]}
    assert layers[worst]["kind"] == "Conv"
    assert layers[worst]["own_noise"] == max(layer["own_noise"] for layer in found["layers"])
    assert found["layers"][0]["snr_db"] is None


def test_json_alone_on_standard_output(call: Call, toy: Engine, data: Path) -> None:
    arguments = ("accuracy", toy.model, toy.model, "--data", data, "--threads", 1, "--json", "-")
    found = json.loads(call(*arguments).out)
    assert [output["snr_db"] for output in found["outputs"]] == [None, None]


def test_nothing_to_exclude(call: Call, toy: Engine, data: Path) -> None:
    arguments = ("accuracy", toy.model, toy.model, "--data", data, "--threads", 1, "--per-layer")
    assert "No single operator adds 10 %" in call(*arguments).out


def test_what_does_not_go_together(call: Call, toy: Engine, data: Path, tmp_path: Path) -> None:
    def refused(*arguments: object) -> bool:
        shown = call("accuracy", toy.model, *arguments, "--data", data)
        return shown.is_user_error() and not shown.out

    assert refused(toy.folder, "--per-layer")
    assert refused(toy.model, "--json", tmp_path / "nowhere" / "found.json")
    assert refused(toy.folder, "--budget", "much")
    assert refused(tmp_path / "nothing.onnx")
