"""Builds on real inputs: shapes, sizes of values, and what the engine keeps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from swapnet.arrays import load_npz, save_npz
from swapnet.builder import build
from swapnet.errors import InputError, ModelError
from swapnet.executor import SwapExecutor
from swapnet.executor.engine import Engine
from swapnet.executor.samples import kept_samples
from swapnet.manifest import Manifest
from tests.helpers.zoo import TOYS, Net

Feed = dict[str, Any]


@pytest.fixture
def reshaping(tmp_path: Path) -> Path:
    """A model with the shape of its output as an input: it does not run on ones."""
    net = Net()
    value = net.dense(net.input("x", (2, 64)), 64, 64)
    net.output(net("Reshape", value, net.input("to", (2,), TensorProto.INT64)))
    onnx.save(net.model(), tmp_path / "reshaping.onnx")
    return tmp_path / "reshaping.onnx"


@pytest.fixture
def speech(tmp_path: Path) -> Path:
    """Durations of letters decide the number of frames."""
    net = Net()
    durations = net.input("durations", (1, "letters"), TensorProto.INT64)
    axis = net.constant(np.array([1]))
    total = net("ReduceSum", durations, axis, keepdims=0)
    frames = net("Concat", total, net.constant(np.array([64])), axis=0)
    row = net.constant(np.ones((1, 64), np.float32))
    net.output(net("Tanh", net.dense(net("Expand", row, frames), 64, 64)))
    onnx.save(net.model(), tmp_path / "speech.onnx")
    return tmp_path / "speech.onnx"


@pytest.fixture
def dynamic(tmp_path: Path) -> Path:
    """``x`` of batch x length x 64, and ``mask`` of batch x length."""
    toy = TOYS["dynamic"]
    toy.save(toy.make(), tmp_path / "dynamic.onnx")
    return tmp_path / "dynamic.onnx"


def feed(batch: int, length: int) -> Feed:
    random = np.random.default_rng(batch + length)
    return {
        "x": random.standard_normal((batch, length, 64), np.float32),
        "mask": np.ones((batch, length), np.int64),
    }


def spoken(*durations: int) -> Feed:
    return {"durations": np.array([durations])}


def kept(folder: Path) -> list[Mapping[str, Any]]:
    return list(kept_samples(Engine.open(folder)))


def sizes(manifest: Manifest) -> dict[str, int]:
    return {tensor.name: tensor.nbytes for tensor in manifest.outputs}


@pytest.mark.slow
def test_values_that_decide_come_from_the_data(reshaping: Path, tmp_path: Path) -> None:
    given = {"x": np.ones((2, 64), np.float32), "to": np.array([8, 16])}
    with pytest.raises(ModelError, match="does not run on seeded inputs") as caught:
        build(reshaping, tmp_path / "e")
    assert "--data inputs.npz, which numpy.savez('inputs.npz', x=…, to=…)" in caught.value.hint
    assert "--shapes" not in caught.value.hint
    build(reshaping, tmp_path / "e", data=given)
    with SwapExecutor(tmp_path / "e", "100%") as executor:
        (output,) = executor(given).values()
    assert output.shape == (8, 16)


def test_a_value_is_planned_at_the_largest_size_that_was_seen(speech: Path, tmp_path: Path) -> None:
    samples = [spoken(3, 4), spoken(90, 400), spoken(1, 1)]
    manifest = build(speech, tmp_path / "e", data=samples)
    assert list(sizes(manifest).values()) == [490 * 64 * 4]
    assert [sample["durations"].tolist() for sample in kept(tmp_path / "e")] == [[[90, 400]]]
    with SwapExecutor(tmp_path / "e", "100%") as executor:
        assert [next(iter(executor(s).values())).shape[0] for s in samples] == [7, 490, 2]


@pytest.mark.slow
def test_blocks_are_measured_on_the_data(speech: Path, tmp_path: Path) -> None:
    few, many = (
        build(speech, tmp_path / name, data=spoken(*durations))
        for name, durations in {"few": (1, 2), "many": (300, 4000)}.items()
    )
    largest = [max(block.activation_bytes for block in m.blocks) for m in (few, many)]
    assert largest[1] > largest[0] + 4000 * 64 * 4


@pytest.mark.slow
def test_several_samples_are_a_range(dynamic: Path, tmp_path: Path) -> None:
    def samples() -> Iterator[Feed]:
        yield feed(1, 9)
        yield feed(2, 3)

    manifest = build(dynamic, tmp_path / "e", data=samples())
    assert manifest.planned_shapes == {"x": (2, 9, 64), "mask": (2, 9)}
    assert list(sizes(manifest).values()) == [2 * 9 * 64 * 4]
    first, *others = kept(tmp_path / "e")
    assert first["x"].shape == (1, 9, 64)
    assert (2, 9, 64) in [sample["x"].shape for sample in others]
    with SwapExecutor(tmp_path / "e", "100%") as executor:
        executor(feed(2, 9))


def test_samples_that_do_not_go_together_are_a_range_too(tmp_path: Path) -> None:
    net = Net()
    past, new = net.input("past", ("p", 64)), net.input("new", ("n", 64))
    total = net.input("mask", ("t", 1))
    net.output(net.dense(net("Mul", net("Concat", past, new, axis=0), total), 64, 64))
    onnx.save(net.model(), tmp_path / "decoder.onnx")

    def step(p: int, n: int) -> Feed:
        arrays = {"past": (p, 64), "new": (n, 64), "mask": (p + n, 1)}
        return {name: np.ones(shape, np.float32) for name, shape in arrays.items()}

    manifest = build(tmp_path / "decoder.onnx", tmp_path / "e", data=[step(0, 20), step(30, 1)])
    assert manifest.planned_shapes == {"past": (30, 64), "new": (20, 64), "mask": (31, 1)}
    assert list(sizes(manifest).values()) == [31 * 64 * 4]
    assert {len(sample["mask"]) for sample in kept(tmp_path / "e")} <= {20, 31}


def test_larger_shapes_than_the_data_has_are_run(dynamic: Path, tmp_path: Path) -> None:
    manifest = build(dynamic, tmp_path / "e", data=feed(1, 3), shapes={"x": (2, 8, 64)})
    assert manifest.planned_shapes == {"x": (2, 8, 64), "mask": (2, 8)}
    assert list(sizes(manifest).values()) == [2 * 8 * 64 * 4]
    (sample,) = kept(tmp_path / "e")
    assert np.array_equal(sample["x"][:, :3], np.repeat(feed(1, 3)["x"], 2, axis=0))


def test_smaller_shapes_than_the_data_has_are_refused(dynamic: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the data is larger than --shapes") as caught:
        build(dynamic, tmp_path / "e", data=feed(2, 5), shapes={"x": (2, 4, 64)})
    assert caught.value.why == "input 'x' is up to 2x5x64 in the data, --shapes gives 2x4x64"
    assert not (tmp_path / "e").exists()


def test_a_sample_that_does_not_run_is_named(tmp_path: Path) -> None:
    net = Net()
    value = net.input("x", ("n", 64))
    net.output(net("Reshape", value, net.input("to", (2,), TensorProto.INT64)))
    onnx.save(net.model(), tmp_path / "toy.onnx")
    samples = [{"x": np.ones((2, 64), np.float32), "to": np.array(to)} for to in ([4, 32], [3, 3])]
    with pytest.raises(ModelError, match="does not run on sample 1 of the data"):
        build(tmp_path / "toy.onnx", tmp_path / "e", data=samples)


@pytest.mark.parametrize(
    ("data", "what"),
    [
        ({}, "input 'mask' of the data is missing"),
        ([], "the data has no samples"),
        ([feed(1, 2), [1, 2]], "inputs of sample 1 are not a dict"),
        ([feed(1, 2), feed(1, 2) | {"y": 1}], "unknown input 'y' of sample 1"),
        (feed(1, 2) | {"x": [[1, 2], [3]]}, "the data is not arrays"),
        (feed(1, 2) | {"x": np.ones((1, 64), np.float32)}, "'x' of the data has the wrong shape"),
        (feed(1, 2) | {"x": np.full((1, 2, 64), np.nan, np.float32)}, "has NaN"),
        (5, "the data can't be read"),
        ("nowhere.npz", "nowhere.npz can't be read"),
    ],
)
def test_bad_data_is_one_clear_error(dynamic: Path, tmp_path: Path, data: Any, what: str) -> None:
    with pytest.raises(InputError, match=what):
        build(dynamic, tmp_path / "e", data=data)
    assert {path.name for path in tmp_path.iterdir()} == {"dynamic.onnx"}


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp16", "fp32"])
def test_files_and_arrays_give_the_same(dynamic: Path, tmp_path: Path, precision: Any) -> None:
    (tmp_path / "data").mkdir()
    for number, sample in enumerate((feed(1, 3), feed(1, 5))):
        save_npz(tmp_path / "data" / f"{number}.npz", sample)
    stacked = {name: np.stack([array, array]) for name, array in feed(1, 5).items()}
    save_npz(tmp_path / "stacked.npz", stacked)
    ways: list[Any] = [tmp_path / "data", str(tmp_path / "stacked.npz"), stacked, feed(1, 5)]
    for number, data in enumerate(ways):
        folder = tmp_path / f"e{number}"
        manifest = build(dynamic, folder, data=data, precision=precision)
        assert manifest.planned_shapes == {"x": (1, 5, 64), "mask": (1, 5)}
        assert np.array_equal(load_npz(folder / "samples" / "0.npz")["x"], feed(1, 5)["x"])


@pytest.mark.slow
def test_a_build_without_data_keeps_no_sample(dynamic: Path, tmp_path: Path) -> None:
    build(dynamic, tmp_path / "e", data=feed(1, 2))
    build(dynamic, tmp_path / "e")
    assert not (tmp_path / "e" / "samples").exists()
