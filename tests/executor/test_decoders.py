"""Decoders with a cache, built with no shapes given, against ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from swapnet import SwapExecutor, build
from swapnet.calibration import ensure_shapes
from swapnet.errors import BudgetError
from swapnet.executor.engine import Engine
from swapnet.executor.inputs import planned_sample
from tests.helpers.decoders import HIDDEN, LAYERS, concatenating, grouped

DECODERS: dict[str, Callable[[], onnx.ModelProto]] = {
    "concatenating": concatenating,
    "grouped": grouped,
    "grouped-int4": lambda: grouped(4),
}


@pytest.fixture(scope="module", params=DECODERS)
def decoder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an engine, beside its model."""
    folder = tmp_path_factory.mktemp("decoder")
    onnx.save(DECODERS[request.param](), folder / "model.onnx")
    build(folder / "model.onnx", folder / "engine")
    return folder / "engine"


def assert_equal(engine: Engine, executor: SwapExecutor) -> None:
    """Equal to ONNX Runtime on the model file, for seeded inputs of the engine's shapes."""
    feeds = planned_sample(engine.manifest, seed=1)
    options = onnxruntime.SessionOptions()
    # ONNX Runtime computes int4 products with packed weights in int8, and with others in float32.
    packs = engine.manifest.has_windows
    options.add_session_config_entry("session.disable_prepacking", str(int(not packs)))
    session = onnxruntime.InferenceSession(engine.folder.with_name("model.onnx"), options)
    names = [output.name for output in session.get_outputs()]
    found = executor(feeds)
    for name, expected in zip(names, session.run(names, feeds), strict=True):
        assert found[name].shape == expected.shape
        if expected.size:
            limit = 1e-5 * np.abs(expected).max()
            np.testing.assert_allclose(np.float32(found[name]), expected, rtol=0, atol=limit)


def sizes(engine: Engine) -> dict[str, int]:
    names = ("batch_size", "sequence_length", "past_sequence_length")
    return {name: engine.manifest.symbols[name] for name in names}


@pytest.mark.slow
def test_the_first_step_is_assumed(decoder: Path) -> None:
    engine = Engine.open(decoder)
    assert tuple(sizes(engine).values()) == (1, 128, 0)
    shapes = engine.manifest.planned_shapes
    assert shapes["attention_mask"] == (1, 128)
    assert {s[2:] for n, s in shapes.items() if n.startswith("past")} == {(0, 16)}
    with SwapExecutor(engine, "100%") as executor:
        assert_equal(engine, executor)


@pytest.mark.slow
def test_a_larger_past_takes_smaller_ones(decoder: Path) -> None:
    larger = ensure_shapes(decoder, dims={"past_sequence_length": 24, "sequence_length": 2})
    assert tuple(sizes(larger).values()) == (1, 2, 24)
    assert larger.manifest.planned_shapes["attention_mask"] == (1, 26)
    one = ensure_shapes(decoder, dims={"past_sequence_length": 7, "sequence_length": 1})
    none = ensure_shapes(decoder, dims={"past_sequence_length": 0, "sequence_length": 2})
    with SwapExecutor(larger, "100%") as executor:
        for smaller in (larger, one, none):
            assert_equal(smaller, executor)
        first = planned_sample(Engine.open(decoder).manifest)
        with pytest.raises(BudgetError) as caught:
            executor(first)
    assert "sequence_length=128" in caught.value.hint


@pytest.mark.slow
def test_the_size_of_a_head_is_no_choice(tmp_path: Path) -> None:
    onnx.save(grouped(), tmp_path / "model.onnx")
    manifest = build(tmp_path / "model.onnx", tmp_path / "engine", dims={"kv_cache_dim": 16})
    assert manifest.symbols["kv_cache_dim"] == HIDDEN // 4
    pasts = [taken for taken in manifest.inputs if taken.name.startswith("past")]
    assert len(pasts) == 2 * LAYERS
    assert {taken.shape[3] for taken in pasts} == {16}
