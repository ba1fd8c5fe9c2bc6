"""Engines for a GPU, and a TensorRT that needs none: fixtures of several folders."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from types import ModuleType

import onnx
import onnxruntime
import pytest
from onnx import helper

from swapnet import tensorrt
from swapnet.builder import build
from swapnet.builder.compilers.tensorrt import compiler
from swapnet.builder.compilers.tensorrt.job import Job
from swapnet.executor.inputs import planned_sample
from swapnet.manifest import Block, load_manifest
from swapnet.progress import Progress
from tests.helpers.engines import Arrays
from tests.helpers.fake_tensorrt import SCRATCH_BYTES, DeferringRuntime, Runtime, fake_tensorrt
from tests.helpers.plans import as_tensorrt
from tests.helpers.zoo import TOYS

__all__ = ["BuildGpu", "compiled_as_onnx", "feeds", "gpu_engine", "scatters", "trt"]

BuildGpu = Callable[..., Path]


@pytest.fixture(scope="session")
def gpu_engine(tmp_path_factory: pytest.TempPathFactory) -> BuildGpu:
    """Builds a toy for a GPU backend, once; ``embedded`` says whose weights are in their plan."""

    @cache
    def built(name: str, backend: str = "onnxruntime-cuda", embedded: str = "none") -> Path:
        toy, home = TOYS[name], tmp_path_factory.mktemp(name)
        if backend == "onnxruntime-cuda":
            toy.save(toy.make(), home / f"{name}.onnx")
            build(
                home / f"{name}.onnx",
                home / "engine",
                backend=backend,
                max_block=toy.max_block,
                shapes=toy.shapes,
            )
        else:
            rules: dict[str, Callable[[Block], bool]] = {
                "none": lambda _: False,
                "odd": lambda block: block.index % 2 == 1,
                "all": lambda _: True,
            }
            source = built(name)
            as_tensorrt(source, home / "engine", backend=backend, embedded=rules[embedded])
        return home / "engine"

    return built


@cache
def scatters() -> bool:
    """Whether this ONNX Runtime executes TensorScatter."""
    values = [helper.make_tensor_value_info(n, 1, (1, 4, 2)) for n in ("past", "new", "present")]
    index = helper.make_tensor_value_info("at", 7, (1,))
    node = helper.make_node("TensorScatter", ["past", "new", "at"], ["present"], axis=1)
    graph = helper.make_graph([node], "scatter", [*values[:2], index], values[2:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 24)], ir_version=10)
    try:
        onnxruntime.InferenceSession(model.SerializeToString())
    except Exception:  # of ONNX Runtime's own kinds
        return False
    return True


@pytest.fixture
def compiled_as_onnx(trt: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks that are built for TensorRT become plans of the fake: what its parser would get."""
    del trt
    if not scatters():
        pytest.skip("this ONNX Runtime has no TensorScatter")

    def compile_(job: Job, _: Progress) -> int:
        model = onnx.load_model(job.model)
        for opset in model.opset_import:
            if opset.domain in ("", "ai.onnx"):
                opset.version = max(opset.version, 24)  # ONNX Runtime has TensorScatter since then
        onnx.save_model(model, job.engine)
        return SCRATCH_BYTES

    monkeypatch.setattr(compiler, "compile_engine", compile_)


@pytest.fixture
def feeds() -> Callable[[Path], Arrays]:
    """Seeded inputs of an engine."""
    return lambda folder: dict(planned_sample(load_manifest(folder)))


@pytest.fixture
def trt() -> Iterator[ModuleType]:
    """The fake, in the place of both libraries."""
    before = {name: sys.modules.get(name) for name in ("tensorrt", "tensorrt_rtx")}
    sys.modules["tensorrt"] = fake = fake_tensorrt(Runtime)
    sys.modules["tensorrt_rtx"] = fake_tensorrt(DeferringRuntime)
    _forget()
    yield fake
    for name, module in before.items():
        if module is None:
            del sys.modules[name]
        else:
            sys.modules[name] = module
    Runtime.made, DeferringRuntime.made = [], []
    Runtime.failing = ()
    DeferringRuntime.validity = "valid"
    _forget()


def _forget() -> None:
    tensorrt.load_tensorrt.cache_clear()
    tensorrt.logger.cache_clear()
