"""The cache of a decoder in memory of a simulated GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from swapnet.builder import build
from swapnet.errors import BackendError, BudgetError, EngineError
from swapnet.executor import Device, SwapExecutor
from swapnet.executor.engine import Engine
from swapnet.executor.generation.generator import Generator
from swapnet.executor.planning.planner import smallest_budget
from swapnet.testing.gpu import SimulatedAccelerator
from tests.helpers import decoders
from tests.helpers.fake_tensorrt import Context

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


@pytest.mark.parametrize("backend", ["tensorrt-rtx", "onnxruntime-cuda"])
def test_tokens_are_those_of_the_model(
    model: Path, backend: str, request: pytest.FixtureRequest
) -> None:
    if backend == "tensorrt-rtx":
        request.getfixturevalue("compiled_as_onnx")
    build(model, engine := model.with_name("engine"), backend=backend)
    expected = decoders.expected(Engine.open(engine), PROMPT, COUNT)
    with Generator(engine, "100%", CONTEXT, gpu=SimulatedAccelerator(1)) as generator:
        assert list(generator(PROMPT, max_tokens=COUNT)) == expected
        assert list(generator(PROMPT, max_tokens=COUNT)) == expected


@pytest.fixture
def grouped(tmp_path: Path, compiled_as_onnx: None) -> Path:
    """An engine of TensorRT."""
    del compiled_as_onnx
    onnx.save_model(decoders.named(decoders.grouped()), tmp_path / "model.onnx")
    build(tmp_path / "model.onnx", tmp_path / "engine", backend="tensorrt-rtx")
    return tmp_path / "engine"


class CountingAccelerator(SimulatedAccelerator):
    """Counts bytes that cross between host and GPU."""

    copied_bytes = 0

    def copy_in(self, stream: Any, destination: int, source: memoryview) -> None:
        self.copied_bytes += source.nbytes
        super().copy_in(stream, destination, source)

    def copy_out(self, stream: Any, destination: memoryview, source: int) -> None:
        self.copied_bytes += destination.nbytes
        super().copy_out(stream, destination, source)


def test_the_cache_stays_on_the_gpu(grouped: Path) -> None:
    gpu = CountingAccelerator(1)
    with SwapExecutor(grouped, "100%", context=CONTEXT, gpu=gpu) as executor:
        manifest, cache = executor.manifest, executor.engine.cache
        assert cache is not None
        assert all(pair.in_place for pair in cache.pairs)
        executor(decoders.inputs_after(manifest, PROMPT[:5], 0))
        before = gpu.copied_bytes
        executor(decoders.inputs_after(manifest, PROMPT[5:6], 5))
        assert gpu.copied_bytes - before < cache.nbytes // 8
        assert executor.state().length == 6


@pytest.mark.parametrize("memory", ["device", "managed"])
def test_a_state_is_saved_and_loaded(grouped: Path, tmp_path: Path, memory: str) -> None:
    expected = decoders.expected(Engine.open(grouped), PROMPT, 8)
    device = Device(gpu_memory=memory)
    with Generator(grouped, "100%", CONTEXT, device=device, gpu=SimulatedAccelerator()) as one:
        assert list(one(PROMPT, max_tokens=4)) == expected[:4]
        state = one.executor.state()
        state.save(tmp_path / "talk.npz")
    with pytest.raises(BackendError, match="gone"):
        state.save(tmp_path / "late.npz")
    with Generator(grouped, "100%", CONTEXT, device=device, gpu=SimulatedAccelerator()) as other:
        other.executor.state().load(tmp_path / "talk.npz")
        assert other.executor.state().pending == expected[3:4]
        next_tokens = list(other([], max_tokens=4, keep=True))
        assert next_tokens == expected[4:]


def test_the_cache_is_part_of_the_budget(grouped: Path) -> None:
    with SwapExecutor(grouped, "100%", context=CONTEXT, gpu=SimulatedAccelerator()) as executor:
        smallest, cache = smallest_budget(executor.manifest)[0], executor.engine.cache
    assert cache is not None
    with SwapExecutor(grouped, smallest, context=CONTEXT, gpu=SimulatedAccelerator()) as executor:
        assert executor.plan.usage.io_bytes > cache.nbytes
    with pytest.raises(BudgetError, match=f"cache of {CONTEXT} tokens"):
        SwapExecutor(grouped, smallest - 1, context=CONTEXT, gpu=SimulatedAccelerator())


def test_a_context_beyond_that_of_the_build_is_refused(grouped: Path) -> None:
    with pytest.raises(EngineError, match="compiled it for a cache of 512 tokens"):
        SwapExecutor(grouped, "100%", context=513, gpu=SimulatedAccelerator())


def test_shapes_do_not_change_from_token_to_token(
    grouped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[dict[str, tuple[int, ...]]] = []
    set_shape = Context.set_input_shape

    def record(context: Context, name: str, shape: tuple[int, ...]) -> bool:
        seen[-1][f"{id(context)} {name}"] = shape
        return set_shape(context, name, shape)

    monkeypatch.setattr(Context, "set_input_shape", record)
    with SwapExecutor(grouped, "100%", context=CONTEXT, gpu=SimulatedAccelerator()) as executor:
        for before in range(3):
            seen.append({})
            executor(decoders.inputs_after(executor.manifest, PROMPT[:1], before))
    assert seen[0] == seen[1] == seen[2]
    assert seen[0]


def test_several_conversations_are_refused(grouped: Path) -> None:
    with pytest.raises(BackendError, match="one conversation at a time"):
        Generator(grouped, "100%", CONTEXT, conversations=2, gpu=SimulatedAccelerator())
