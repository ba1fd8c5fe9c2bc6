"""The cache of a decoder in memory of a simulated GPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from swapnet.builder import build
from swapnet.errors import BackendError, EngineError
from swapnet.executor import SwapExecutor
from swapnet.executor.engine import Engine
from swapnet.executor.generation.generator import Generator
from swapnet.testing.gpu import SimulatedAccelerator
from tests.helpers import decoders

CONTEXT, COUNT = 192, 12
PROMPT = [int(n) for n in np.random.default_rng(1).integers(0, decoders.VOCABULARY, 131)]


def exact(model: onnx.ModelProto) -> onnx.ModelProto:
    """Products of 4 bits that round nothing else to 8 bits: TensorRT's do not."""
    for node in model.graph.node:
        for attribute in node.attribute:
            attribute.i = 0 if attribute.name == "accuracy_level" else attribute.i
    return model


MODELS = {
    "grouped": decoders.grouped,
    "int4": lambda: exact(decoders.grouped(4)),
    "concatenating": decoders.concatenating,
}


@pytest.fixture(params=[*MODELS])
def model(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    onnx.save_model(decoders.named(MODELS[request.param]()), path)
    return path


@pytest.mark.usefixtures("compiled_as_onnx")
@pytest.mark.parametrize("backend", ["tensorrt-rtx", "onnxruntime-cuda"])
def test_tokens_are_those_of_the_model(model: Path, backend: str) -> None:
    build(model, engine := model.with_name("engine"), backend=backend)
    expected = decoders.expected(Engine.open(engine), PROMPT, COUNT)
    with Generator(engine, "100%", CONTEXT, gpu=SimulatedAccelerator(1)) as generator:
        assert list(generator(PROMPT, max_tokens=COUNT)) == expected
        assert list(generator(PROMPT, max_tokens=COUNT)) == expected
