from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from swapnet.models.graph import IR_VERSION, OPSET, Graph
from swapnet.models.weights import Weights

Noise = Callable[..., NDArray[np.float32]]
Infer = Callable[..., dict[str, NDArray[Any]]]


def write(path: Path, seed: int = 0) -> int:
    with Graph(path, Weights(seed=seed)) as graph:
        value = graph.input("input", (1, 2, 4, 4))
        value = graph.conv(value, "conv", (2, 3), 3, stride=2, bias=True)
        value = graph.node("Flatten", graph.batch_norm(value, "bn", 3))
        graph.output("answer", graph.gemm(value, "fc", (12, 5)), (1, 5))
        return graph.save()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "toy.onnx"


def test_counts_what_can_be_trained(path: Path) -> None:
    assert write(path) == (3 * 2 * 9 + 3) + (3 + 3) + (5 * 12 + 5)


def test_file_is_valid(path: Path) -> None:
    write(path)
    onnx.checker.check_model(path, full_check=True)
    model = onnx.load(path, load_external_data=False)
    assert model.opset_import[0].version == OPSET
    assert model.ir_version == IR_VERSION
    assert [node.op_type for node in model.graph.node] == [
        *("Conv", "BatchNormalization", "Flatten", "Gemm")
    ]


def test_weights_lie_aligned_beside_the_file(path: Path) -> None:
    write(path)
    for tensor in onnx.load(path, load_external_data=False).graph.initializer:
        where = {entry.key: entry.value for entry in tensor.external_data}
        assert where["location"] == "toy.onnx.data"
        assert int(where["offset"]) % 4096 == 0
        assert int(where["length"]) == 4 * np.prod(tensor.dims)


def test_computes_what_it_says(path: Path, noise: Noise, infer: Infer) -> None:
    write(path)
    image = noise(1, 2, 4, 4)
    weights = {
        tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer
    }
    padded = np.pad(image[0], [(0, 0), (1, 1), (1, 1)])
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))[:, ::2, ::2]
    value = np.einsum("chwij,ocij->ohw", windows, weights["conv.weight"])
    value += weights["conv.bias"][:, None, None]
    mean, variance, scale, shift = (
        weights[f"bn.{kind}"][:, None, None]
        for kind in ("running_mean", "running_var", "weight", "bias")
    )
    value = (value - mean) / np.sqrt(variance + 1e-5) * scale + shift
    expected = weights["fc.weight"] @ value.ravel() + weights["fc.bias"]
    np.testing.assert_allclose(infer(path, input=image)["answer"][0], expected, atol=1e-5)


def test_a_convolution_may_be_grouped_and_padded(path: Path, noise: Noise, infer: Infer) -> None:
    with Graph(path, Weights()) as graph:
        value = graph.input("input", (1, 2, 4, 4))
        value = graph.conv(value, "conv", (2, 2), 3, stride=2, groups=2, pads=(0, 1))
        graph.output("answer", value, (1, 2, 2, 2))
        assert graph.save() == 2 * 9
    image = noise(1, 2, 4, 4)
    (tensor,) = onnx.load(path).graph.initializer
    padded = np.pad(image[0], [(0, 0), (0, 1), (0, 1)])
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))[:, ::2, ::2]
    expected = np.einsum("chwij,cij->chw", windows, numpy_helper.to_array(tensor)[:, 0])
    np.testing.assert_allclose(infer(path, input=image)["answer"][0], expected, atol=1e-5)


def test_a_value_may_be_doubled(path: Path, noise: Noise, infer: Infer) -> None:
    with Graph(path, Weights()) as graph:
        graph.output("answer", graph.double(graph.input("input", (1, 2, 3, 4))), (1, 2, 6, 8))
        assert graph.save() == 0
    image = noise(1, 2, 3, 4)
    expected = image.repeat(2, axis=2).repeat(2, axis=3)
    np.testing.assert_array_equal(infer(path, input=image)["answer"], expected)


def test_a_weight_may_be_stored_transposed(path: Path) -> None:
    with Graph(path, Weights()) as graph:
        value = graph.input("input", ("batch", 2))
        weight = graph.weight("fc.weight", (3, 2), 1.0, transposed=True)
        graph.output("answer", graph.node("MatMul", value, weight), ("batch", 3))
        graph.save()
    (tensor,) = onnx.load(path).graph.initializer
    expected = Weights().tensor("fc.weight", (3, 2), 1.0).T
    np.testing.assert_array_equal(numpy_helper.to_array(tensor), expected)


def test_files_of_other_weights_differ(tmp_path: Path) -> None:
    contents: list[bytes] = []
    for seed in (0, 0, 1):
        folder = tmp_path / str(len(contents))
        folder.mkdir()
        write(folder / "toy.onnx", seed)
        contents.append((folder / "toy.onnx").read_bytes())
    assert contents[0] == contents[1]
    assert contents[0] != contents[2]
