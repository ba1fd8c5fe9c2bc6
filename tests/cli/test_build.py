"""``swapnet build`` and ``swapnet models run`` for backends that can't run here."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from swapnet import models
from swapnet.arrays import save_npz
from swapnet.builder.importing.source import file_sha256
from swapnet.cli.engine import build_progress
from swapnet.manifest import load_manifest
from swapnet.models import ZooFiles
from tests.cli.conftest import Call
from tests.helpers.engines import Engine
from tests.helpers.zoo import Net, mlp

RTX = ("--backend", "tensorrt-rtx")


@pytest.fixture
def rtx() -> None:
    """TensorRT-RTX is here, a GPU is not."""
    pytest.importorskip("tensorrt_rtx_bindings")


@pytest.mark.usefixtures("rtx")
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((*RTX, "--weights", "inside"), ("inside", "auto, embedded, external")),
        ((*RTX, "--target", "sm1"), ("'sm1'", "sm86")),
        ((*RTX, "--portable"), ("--portable", "tensorrt-rtx")),
        ((*RTX, "--version-compatible"), ("--version-compatible", "--backend tensorrt")),
        ((*RTX, "--smallest-budget", "tiny"), ("not a size",)),
        ((*RTX, "--smallest-budget", "1KiB"), ("1024", "16384")),
        ((*RTX, "--min-shapes", "other:1"), ("--min-shapes", "other")),
        (("--weights", "external"), ("--weights", "onnxruntime")),
        (("--backend", "tensorrt", "--target", "sm86"), ("--hardware-compatibility",)),
    ],
)
def test_options_are_those_of_the_backend(
    call: Call, toy: Engine, tmp_path: Path, arguments: tuple[str, ...], words: tuple[str, ...]
) -> None:
    failed = call("build", toy.model, "-o", tmp_path / "engine", *arguments)
    assert failed.is_user_error(*words)
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("rtx")
def test_an_unsupported_operator_leaves_nothing(call: Call, tmp_path: Path) -> None:
    net = Net()
    net.output(net("NonZero", net("Relu", net.dense(net.input("x", (2, 64)), 64, 64))))
    onnx.save(net.model(), tmp_path / "odd.onnx")
    failed = call("build", tmp_path / "odd.onnx", "-o", tmp_path / "engine", *RTX)
    assert failed.status == 2
    said = failed.err[failed.err.index("swapnet: error:") :].splitlines()
    assert len(said) == 3
    assert "block 0 (MatMul … NonZero) can't be compiled by tensorrt-rtx" in said[0]
    assert "'nonzero2' (NonZero)" in said[1]
    assert "Traceback" not in failed.err
    assert [path.name for path in tmp_path.iterdir()] == ["odd.onnx"]


@pytest.mark.usefixtures("rtx")
def test_an_engine_for_a_gpu_is_not_calibrated_without_one(
    call: Call, toy: Engine, tmp_path: Path
) -> None:
    folder = tmp_path / "engine"
    built = call(
        *("build", toy.model, "-o", folder, *RTX, "--target", "sm86,sm89"),
        *("--smallest-budget", "64KiB", "--weights", "embedded", "--workspace", "16MiB"),
    )
    assert built.status == 0
    assert "tensorrt-rtx needs a CUDA GPU" in built.err
    assert "its smallest budget is" in built.err
    assert "more than 64KiB" in built.err
    assert load_manifest(folder).compiled.fingerprint == "sm86+sm89"
    assert not (folder / "profile.json").exists()


@pytest.fixture
def zoo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A zoo in which every model is three products."""
    path = tmp_path / "zoo"
    path.mkdir()
    onnx.save(mlp(layers=3), path / "model.onnx")
    save_npz(path / "example.npz", {"x": np.ones((2, 64), np.float32)})
    files = ZooFiles(
        name="toy",
        onnx=path / "model.onnx",
        example=path / "example.npz",
        data=path / "example.npz",
        licence="MIT",
        sha256=file_sha256(path / "model.onnx"),
    )
    monkeypatch.setattr(models, "get", lambda _, **__: files)
    return tmp_path / "engines"


@pytest.mark.usefixtures("rtx")
def test_the_zoo_is_built_where_it_can_not_run(call: Call, zoo: Path) -> None:
    for _ in range(2):
        shown = call("models", "run", "vgg19", "resnet101", *RTX, "--engines", zoo)
        assert shown.status == 0
        for word in ("vgg19", "resnet101", "external", "embedded", "smallest budget"):
            assert word in shown.out
        assert "needs a CUDA GPU" in shown.out
    assert "blocks" not in shown.err
    assert [path.name for path in zoo.iterdir()] == ["toy-tensorrt-rtx"]
    assert load_manifest(zoo / "toy-tensorrt-rtx").compiled.backend == "tensorrt-rtx"


def test_random_operators_are_named(call: Call, tmp_path: Path) -> None:
    net = Net()
    net.output(net("RandomNormalLike", net.dense(net.input("x", (2, 64)), 64, 64)))
    onnx.save_model(net.model(), tmp_path / "drawn.onnx")
    built = call("build", tmp_path / "drawn.onnx", "-o", tmp_path / "drawn", "--no-measure")
    assert built.status == 0
    assert "the model has random operators" in built.err
    assert "RandomNormalLike" in built.err


def test_progress_of_a_build_needs_no_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("swapnet.process.child.forked", lambda *_: pytest.fail("forked"))
    with build_progress("toy", forks=True) as report:
        report("read", 0, 1)
