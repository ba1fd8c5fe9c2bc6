"""Biases that make up for rounded weights."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from swapnet.builder.precision import weights
from swapnet.builder.precision.biases import correct_biases
from swapnet.builder.precision.convert import PrecisionOptions, convert
from swapnet.builder.precision.selection import channelled, weighted
from swapnet.builder.precision.weights import quantise_weights
from swapnet.errors import InputError
from tests.builder.precision.conftest import Normal, ranges_by_running, run
from tests.helpers.zoo import Net

Build = Callable[[Net], str]
Floats = NDArray[np.float32]


def convolution(net: Net) -> str:
    return net("Conv", net.input("x", (8, 6, 9, 9)), net.weight(16, 6, 3, 3), net.weight(16))


def without_a_bias(net: Net) -> str:
    return net("Conv", net.input("x", (8, 6, 9, 9)), net.weight(16, 6, 1, 1))


def depthwise(net: Net) -> str:
    return net(
        "Conv", net.input("x", (8, 6, 9, 9)), net.weight(12, 1, 3, 3), net.weight(12), group=6
    )


def grouped(net: Net) -> str:
    return net(
        "Conv", net.input("x", (8, 6, 9, 9)), net.weight(12, 3, 1, 1), net.weight(12), group=2
    )


def gemm(net: Net) -> str:
    return net("Gemm", net.input("x", (64, 24)), net.weight(24, 10), net.weight(10))


def transposed_gemm(net: Net) -> str:
    return net("Gemm", net.input("x", (64, 24)), net.weight(10, 24), net.weight(10), transB=1)


def gemm_without_a_bias(net: Net) -> str:
    return net("Gemm", net.input("x", (64, 24)), net.weight(10, 24), transB=1)


def product_and_sum(net: Net) -> str:
    return net("Add", net.weight(10), net.dense(net.input("x", (4, 16, 24)), 24, 10))


def shared_bias(net: Net) -> str:
    x, bias = net.input("x", (64, 24)), net.weight(10)
    first = net("Gemm", x, net.weight(24, 10), bias)
    return net("Concat", first, net("Gemm", x, net.weight(24, 10), bias), axis=1)


CASES = [
    convolution,
    without_a_bias,
    depthwise,
    grouped,
    gemm,
    transposed_gemm,
    gemm_without_a_bias,
    product_and_sum,
    shared_bias,
]


def model_of(build: Build) -> onnx.ModelProto:
    net = Net(seed=5)
    net.output(build(net))
    return net.model()


def inputs(model: onnx.ModelProto) -> dict[str, Floats]:
    """Channels of different means, alike at every place so that kernels all see the mean."""
    shape = [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim]
    random = np.random.default_rng(2)
    axis = 1 if len(shape) == 4 else len(shape) - 1
    outer = [size if i in (0, axis) else 1 for i, size in enumerate(shape)]
    values = random.standard_normal(outer if len(shape) == 4 else shape)
    centre = np.linspace(-2, 5, shape[axis]).reshape(
        [-1 if i == axis else 1 for i in range(len(shape))]
    )
    return {"x": np.broadcast_to(values + centre, shape).astype(np.float32)}


def means_of(feeds: dict[str, Floats], axis: int) -> tuple[float, ...]:
    x = feeds["x"].astype(np.float64)
    return tuple(np.moveaxis(x, axis, -1).reshape(-1, x.shape[axis]).mean(axis=0).tolist())


def mean_error(reference: Any, found: Any) -> float:
    """The largest of a channel's mean, over the largest value."""
    (wanted,), (given,) = reference.values(), found.values()
    axis = 1 if wanted.ndim == 4 else wanted.ndim - 1
    others = tuple(i for i in range(wanted.ndim) if i != axis)
    return float(np.abs((given - wanted).mean(axis=others)).max() / np.abs(wanted).max())


@pytest.mark.parametrize("axis", ["by channel", "one scale"])
@pytest.mark.parametrize("build", CASES)
@pytest.mark.parametrize("piece_elements", [20, 1 << 20])
def test_the_mean_error_of_every_channel_vanishes(
    normal: Normal, monkeypatch: pytest.MonkeyPatch, build: Build, axis: str, piece_elements: int
) -> None:
    monkeypatch.setattr(weights, "_PIECE_ELEMENTS", piece_elements)
    model = model_of(build)
    source = normal(model)
    folder = source.path.parent
    feeds = inputs(model)
    operators = weighted(source.proto.graph)
    if axis == "one scale":
        operators = tuple(replace(one, axis=None) for one in operators)
    rounded = onnx.ModelProto()
    rounded.CopyFrom(source.proto)
    quantise_weights(rounded, folder, operators, "int8.data")
    onnx.save_model(rounded, folder / "rounded.onnx")
    means = {n: means_of(feeds, c.axis) for n, c in channelled(source.proto.graph).items()}
    correct_biases(rounded, source.proto, folder, operators, means)
    onnx.save_model(rounded, folder / "corrected.onnx")
    # Optimised, ONNX Runtime fuses products with int8 weights into kernels that round inputs too.
    reference, before, after = (
        run(given, feeds, optimise=False)
        for given in (model, folder / "rounded.onnx", folder / "corrected.onnx")
    )
    assert mean_error(reference, before) > 1e-4
    assert mean_error(reference, after) < 2e-6


def test_a_product_without_a_sum_stays(normal: Normal) -> None:
    net = Net(seed=5)
    net.output(net.dense(net.input("x", (4, 24)), 24, 10))
    source = normal(net.model())
    rounded = onnx.ModelProto()
    rounded.CopyFrom(source.proto)
    operators = weighted(source.proto.graph)
    quantise_weights(rounded, source.path.parent, operators, "int8.data")
    before = rounded.SerializeToString()
    correct_biases(rounded, source.proto, source.path.parent, operators, {"x": (1.0,) * 24})
    assert rounded.SerializeToString() == before


def scalar_bias(net: Net) -> str:
    bias = net.constant(np.array(0.5, np.float32))
    return net("Gemm", net.input("x", (4, 24)), net.weight(24, 1), bias)


def bias_of_places(net: Net) -> str:
    return net("Add", net.dense(net.input("x", (6, 24)), 24, 10), net.weight(6, 10))


def computed_bias(net: Net) -> str:
    bias = net("Relu", net.input("bias", (10,)))
    return net("Add", net.dense(net.input("x", (6, 24)), 24, 10), bias)


def scaled(net: Net) -> str:
    return net("Gemm", net.input("x", (4, 24)), net.weight(24, 10), net.weight(10), alpha=0.5)


def also_transposed(net: Net) -> str:
    """Of a transposed convolution each output sees another part of the weight."""
    return net("ConvTranspose", net.input("x", (1, 24, 3, 3)), net.weight(24, 8, 3, 3))


@pytest.mark.parametrize(
    "build", [scalar_bias, bias_of_places, computed_bias, scaled, also_transposed]
)
def test_what_can_not_be_corrected_stays(normal: Normal, build: Build) -> None:
    source = normal(model_of(build))
    rounded = onnx.ModelProto()
    rounded.CopyFrom(source.proto)
    operators = weighted(source.proto.graph)
    assert operators
    quantise_weights(rounded, source.path.parent, operators, "int8.data")
    before = rounded.SerializeToString()
    correct_biases(rounded, source.proto, source.path.parent, operators, {"x": (1.0,) * 24})
    assert rounded.SerializeToString() == before


@pytest.mark.parametrize("backend", ["onnxruntime", "tensorrt"])
def test_int8_takes_means_from_the_cache(normal: Normal, backend: str) -> None:
    model = model_of(convolution)
    source, feeds = normal(model), inputs(model)
    cache = ranges_by_running(source, feeds)
    found: list[float] = []
    for means in ({}, {"x": means_of(feeds, 1)}):
        options = PrecisionOptions("int8", ranges=msgspec.structs.replace(cache, means=means))
        folder = source.path.parent / f"{len(found)}"
        folder.mkdir()
        converted = convert(source, options, folder, backend=backend, slower=nothing)
        found.append(mean_error(run(model, feeds), run(converted.source.path, feeds)))
    assert found[1] < found[0]


def nothing(proto: onnx.ModelProto, exclude: Collection[str]) -> Collection[str]:
    del proto, exclude
    return ()


def test_too_few_means_are_refused(normal: Normal, tmp_path: Path) -> None:
    model = model_of(convolution)
    source = normal(model)
    cache = ranges_by_running(source, inputs(model))
    options = PrecisionOptions("int8", ranges=msgspec.structs.replace(cache, means={"x": (1.0,)}))
    with pytest.raises(InputError, match="has 1 means of 'x'") as caught:
        convert(source, options, tmp_path, backend="onnxruntime", slower=nothing)
    assert "6 channels" in caught.value.why
