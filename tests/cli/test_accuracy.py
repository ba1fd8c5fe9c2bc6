"""``swapnet accuracy`` and ``swapnet models accuracy``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from swapnet import calibration, models
from swapnet.arrays import save_npz
from swapnet.cli import zoo_accuracy
from swapnet.cli.zoo_accuracy import BEGIN, END
from swapnet.errors import InputError
from swapnet.models import ZooFiles
from swapnet.models import evaluation as evaluations
from swapnet.models.evaluation import Inputs
from tests.cli.conftest import Call
from tests.helpers.engines import Engine
from tests.helpers.zoo import TOYS


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


def test_layers_and_their_picture(
    call: Call, toy: Engine, coarse: Path, data: Path, tmp_path: Path
) -> None:
    target, picture = tmp_path / "found.json", tmp_path / "layers.svg"
    shown = call(
        *("accuracy", toy.model, coarse, "--data", data, "--task", "values", "--threads", 1),
        *("--per-layer", "--layer-samples", 2, "--json", target, "--plot", picture),
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
    assert b"<svg" in picture.read_bytes()


def test_json_alone_on_standard_output(call: Call, toy: Engine, data: Path) -> None:
    arguments = ("accuracy", toy.model, toy.model, "--data", data, "--threads", 1, "--json", "-")
    found = json.loads(call(*arguments).out)
    assert [output["snr_db"] for output in found["outputs"]] == [None, None]


def test_nothing_to_exclude(call: Call, toy: Engine, data: Path) -> None:
    arguments = ("accuracy", toy.model, toy.model, "--data", data, "--threads", 1, "--per-layer")
    assert "none to exclude" in call(*arguments).out


def test_what_does_not_go_together(call: Call, toy: Engine, data: Path, tmp_path: Path) -> None:
    def refused(*arguments: object) -> bool:
        shown = call("accuracy", toy.model, *arguments, "--data", data)
        return shown.is_user_error() and not shown.out

    assert refused(toy.folder, "--per-layer")
    assert refused(toy.model, "--plot", tmp_path / "plot.png")
    assert refused(toy.model, "--per-layer", "--plot", tmp_path / "plot.nothing")
    assert refused(toy.model, "--per-layer", "--plot", tmp_path / "nowhere" / "plot.png")
    assert refused(toy.model, "--json", tmp_path / "nowhere" / "found.json")
    assert refused(toy.folder, "--budget", "much")
    assert refused(tmp_path / "nothing.onnx")


@pytest.fixture
def zoo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ZooFiles:
    """A model of the zoo that is none, and its inputs."""
    path = tmp_path / "toy.onnx"
    onnx.save(TOYS["images"].make(), path)
    files = ZooFiles(name="toy", onnx=path, example=path, data=path, licence="", sha256="")
    monkeypatch.setattr(models, "find", lambda _: files)
    monkeypatch.setattr(models, "get", lambda _: files)

    def inputs(seed: int) -> Inputs:
        def feeds() -> Iterator[dict[str, Any]]:
            random = np.random.default_rng(seed)
            for _ in range(4):
                yield {"image": random.standard_normal((1, 3, 8, 8)).astype(np.float32)}

        return Inputs(feeds)

    monkeypatch.setattr(evaluations, "evaluation", lambda _: inputs(1))
    monkeypatch.setattr(evaluations, "calibration_inputs", lambda _: inputs(2))
    return files


@pytest.mark.slow
@pytest.mark.usefixtures("zoo")
def test_the_zoo_is_compared_and_its_page_written(call: Call, tmp_path: Path) -> None:
    page, target = tmp_path / "accuracy.md", tmp_path / "found.json"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    shown = call(
        *("models", "accuracy", "toy", "--precision", "fp16,int8", "--threads", 1),
        *("--page", page, "--json", target),
    )
    assert shown.status == 0, shown.err
    reports = json.loads(target.read_text())
    assert list(reports) == [f"toy {p} {f}" for p in ("fp16", "int8") for f in ("engine", "file")]
    loss = {key: report["outputs"][0]["snr_db"] for key, report in reports.items()}
    assert 50 < loss["toy fp16 file"] < 90
    assert 15 < loss["toy int8 file"] < 50
    text = page.read_text()
    assert text.startswith(f"before\n{BEGIN}\n\n| model |")
    assert text.endswith(f"{END}\nafter\n")
    assert "old" not in text
    assert text.count("| toy | int8 |") == 4


@pytest.mark.slow
@pytest.mark.usefixtures("zoo")
def test_recipes_leave_operators_in_float(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ("models", "accuracy", "toy", "--precision", "int8", "--threads", 1)
    page = tmp_path / "accuracy.md"
    page.write_text(f"{BEGIN}\n{END}\n")
    chosen = evaluations.Recipe(exclude=("nothing",), reason="a test")
    monkeypatch.setattr(evaluations, "recipe", lambda _: chosen)
    refused = call(*arguments, "--page", page)
    assert refused.is_user_error()
    assert "there is no operator 'nothing' to exclude" in refused.err
    chosen = evaluations.Recipe(reason="none of them")
    assert call(*arguments, "--page", page).status == 0
    assert "| toy | minmax |  |  | none of them |" in page.read_text()
    chosen = evaluations.Recipe("percentile", 99.9, reason="another")
    assert call(*arguments, "--page", page).status == 0
    assert "| toy | percentile 99.9 |  |  | another |" in page.read_text()


@pytest.mark.usefixtures("zoo")
def test_recipes_say_how_int8_takes_ranges(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[tuple[object, ...]] = []

    def calibrate(*_: object, precision: str, method: str, percentile: float, **__: object) -> None:
        taken.append((precision, method, percentile))
        raise InputError("enough", why="this is a test", hint="go on")

    chosen = evaluations.Recipe("percentile", 99.9)
    monkeypatch.setattr(evaluations, "recipe", lambda _: chosen)
    monkeypatch.setattr(calibration, "calibrate_model", calibrate)
    for precision in ("int8", "fp16"):
        assert call("models", "accuracy", "toy", "--precision", precision).is_user_error("enough")
    assert taken == [("int8", "percentile", 99.9), ("fp16", "minmax", 99.99)]


@pytest.mark.usefixtures("zoo")
def test_a_page_without_a_place(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "accuracy.md"
    page.write_text("nothing\n")
    monkeypatch.setattr(zoo_accuracy, "_reports", lambda *_: pytest.fail("work was done"))
    shown = call("models", "accuracy", "toy", "--page", page)
    assert shown.status == 2
    assert "no place for the table" in shown.err


def test_an_unknown_precision(call: Call) -> None:
    shown = call("models", "accuracy", "--precision", "fp8")
    assert shown.status == 2
    assert "'fp8' is none of fp16, int8" in shown.err
