from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from swapnet import models
from swapnet.arrays import save_npz
from swapnet.executor import backends
from swapnet.manifest import load_manifest
from swapnet.models import ZooFiles
from swapnet.testing.gpu import SimulatedAccelerator
from tests.evidence import bench_gpu
from tests.evidence.bench_gpu import command
from tests.evidence.conftest import Call
from tests.helpers.zoo import TOYS


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ZooFiles:
    """A model of the zoo that is none."""
    model = TOYS["images-sliced"].make()
    path = tmp_path / "toy.onnx"
    onnx.save(model, path)
    (given,) = model.graph.input
    shape = [dim.dim_value for dim in given.type.tensor_type.shape.dim]
    save_npz(tmp_path / "example.npz", {given.name: np.zeros(shape, np.float32)})
    files = ZooFiles(
        name="toy",
        onnx=path,
        example=tmp_path / "example.npz",
        data=tmp_path / "example.npz",
        licence="",
        sha256="",
    )
    monkeypatch.setattr(models, "find", lambda _: files)
    monkeypatch.setattr(models, "get", lambda _: files)
    return files


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> SimulatedAccelerator:
    """A simulated one in the place of CUDA's."""
    found = SimulatedAccelerator()
    monkeypatch.setattr(bench_gpu, "open_cuda", lambda *_: found)
    monkeypatch.setattr(bench_gpu, "check_runnable", lambda _: None)
    monkeypatch.setattr(backends, "can_run", lambda _: False)
    return found


@pytest.mark.usefixtures("toy", "gpu")
@pytest.mark.slow
def test_a_model_is_measured_and_its_page_written(call: Call, tmp_path: Path) -> None:
    page, cases = tmp_path / "gpu.md", tmp_path / "cases.json"
    page.write_text("<!-- bench-gpu: begin -->\n<!-- bench-gpu: end -->\n")
    shown = call(
        *(command, "toy", "--backend", "onnxruntime-cuda", "--rounds", 1),
        *("--budget", "100%", "--engines", tmp_path / "engines"),
        *("--json", cases, "--page", page),
    )
    assert shown.status == 0
    (case,) = json.loads(cases.read_text())
    assert (case["model"], case["style"], case["budget"]) == ("toy", "external", "100%")
    assert case["max_rel_error"] < 1e-5
    row = next(line for line in shown.out.splitlines() if line.startswith("| toy"))
    assert row in page.read_text()


@pytest.mark.usefixtures("toy", "gpu")
@pytest.mark.slow
def test_styles_are_built_for_tensorrt(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the whole as one engine; what runs them is another test's."""
    pytest.importorskip("tensorrt_rtx_bindings")
    measured: list[tuple[Any, ...]] = []

    def measure(*arguments: Any, **_: Any) -> list[object]:
        measured.append(arguments[1:3])
        return []

    monkeypatch.setattr(bench_gpu, "measure_cases", measure)
    engines = tmp_path / "engines"
    options = ("--backend", "tensorrt-rtx", "--engines", engines, "--json", "-")
    assert call(command, "toy", *options).out.strip() == "[]"
    ((whole, styles),) = measured
    assert whole == engines / "toy-tensorrt-rtx-whole"
    assert {style: folder.name for style, folder in styles.items()} == {
        "external": "toy-tensorrt-rtx-external",
        "embedded": "toy-tensorrt-rtx-embedded",
    }
    assert len(load_manifest(whole).blocks) == 1


def test_a_machine_without_a_gpu_is_told(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise OSError(f"{name} is not here")

    monkeypatch.setattr("ctypes.CDLL", missing)
    assert call(command).is_user_error("no CUDA driver here")
