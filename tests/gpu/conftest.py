"""What is there of a GPU; tests of this folder are skipped where it is nothing."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache
from pathlib import Path

import onnxruntime
import pytest

from swapnet import models
from swapnet.arrays import load_npz
from swapnet.builder import build
from swapnet.errors import BackendUnavailableError
from swapnet.executor.backends import can_run, check_runnable
from swapnet.executor.gpu.cuda import Cuda, open_cuda
from swapnet.manifest import GPU_BACKENDS
from tests.helpers.engines import Arrays

STYLES = [
    *(("tensorrt", style) for style in ("external", "embedded")),
    *(("tensorrt-rtx", style) for style in ("external", "embedded")),
    ("onnxruntime-cuda", "external"),
]

BuildZoo = Callable[[str], Path]


def pytest_collection_modifyitems() -> None:
    """Where a GPU is asked for (`make test-gpu`), skipping everything is no success."""
    if os.environ.get("SWAPNET_REQUIRE_GPU") and not any(map(can_run, GPU_BACKENDS)):
        pytest.exit("no backend runs on a GPU here: swapnet doctor says why", returncode=2)


@pytest.fixture(scope="session", params=STYLES, ids=["-".join(style) for style in STYLES])
def style(request: pytest.FixtureRequest) -> tuple[str, str]:
    """A backend that runs here, and how weights are given to it."""
    backend, weights = request.param
    assert backend in GPU_BACKENDS
    try:
        check_runnable(backend)
    except BackendUnavailableError as error:
        pytest.skip(f"{error.what}: {error.why}")
    return backend, weights


@pytest.fixture
def gpu(style: tuple[str, str]) -> Cuda:
    """The first GPU."""
    del style
    return open_cuda()


@pytest.fixture(scope="session")
def zoo_engine(style: tuple[str, str], tmp_path_factory: pytest.TempPathFactory) -> BuildZoo:
    """Builds a model of the zoo for the style, once."""
    backend, weights = style

    @cache
    def built(name: str) -> Path:
        files = models.get(name)
        shapes = {key: array.shape for key, array in load_npz(files.example).items()}
        folder = tmp_path_factory.mktemp(name) / "engine"
        if backend == "onnxruntime-cuda":
            build(files.onnx, folder, backend=backend, shapes=shapes)
        else:
            build(files.onnx, folder, backend=backend, shapes=shapes, weights=weights)
        return folder

    return built


@pytest.fixture(scope="session")
def on_cpu() -> Callable[[str], tuple[Arrays, Arrays]]:
    """Inputs of a model and what ONNX Runtime makes of them on the CPU."""

    @cache
    def run(name: str) -> tuple[Arrays, Arrays]:
        files = models.get(name)
        inputs = load_npz(files.example)
        session = onnxruntime.InferenceSession(files.onnx, providers=["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]
        return dict(inputs), dict(zip(names, session.run(names, inputs), strict=True))

    return run
