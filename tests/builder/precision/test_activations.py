"""Q/DQ pairs around values, on a Clip between two convolutions and a third one after them."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from swapnet.builder.importing.source import SourceModel
from swapnet.builder.precision.activations import (
    SATURATING,
    SIGNED,
    UNSIGNED,
    Encoding,
    quantise_activations,
)
from swapnet.builder.precision.selection import activation_names, quantisable, weighted
from swapnet.builder.precision.weights import quantise_weights
from swapnet.ranges import Range
from tests.builder.precision.conftest import Normal, feeds_of, noise_db, ranges_by_running, run
from tests.helpers.zoo import Net

CONVOLUTIONS = ("first", "second", "third")
BOTH = pytest.mark.parametrize("encoding", [SIGNED, UNSIGNED])


def clipped() -> onnx.ModelProto:
    """first, clip to 0..2, second, third; values a, b, c, y."""
    net = Net(seed=5)
    x = net.input("x", (1, 8, 6, 6))
    a = net("Conv", x, net.weight(8, 8, 1, 1), net.weight(8))
    b = net("Clip", a, net.constant(np.array(0, np.float32)), net.constant(np.array(2, np.float32)))
    c = net("Conv", b, net.weight(8, 8, 1, 1), net.weight(8))
    y = net("Conv", c, net.weight(8, 8, 1, 1), net.weight(8))
    net.output(y)
    model = net.model()
    renamed = {"x": "x", a: "a", b: "b", c: "c", y: "y"}
    names = iter(("first", "clip", "second", "third"))
    for node in model.graph.node:
        if node.op_type != "Constant":
            node.name = next(names)
        for field in (node.input, node.output):
            field[:] = [renamed.get(name, name) for name in field]
    for value in model.graph.output:
        value.name = renamed.get(value.name, value.name)
    return model


def quantised(
    source: SourceModel,
    ranges: dict[str, Range],
    encoding: Encoding,
    exclude: Collection[str] = (),
) -> onnx.ModelProto:
    """The model with weights in int8 and Q/DQ pairs, its weights in memory."""
    proto = onnx.load_model(source.path, load_external_data=False)
    folder = source.path.parent
    operators = quantisable(proto.graph, exclude=exclude)
    weights = weighted(proto.graph, exclude=exclude)
    quantise_weights(proto, folder, weights, "int8.data", limit=encoding.weight_limit)
    found = quantise_activations(proto, folder, operators, ranges, encoding)
    onnx.load_external_data_for_model(found, str(folder))
    return found


def measured(source: SourceModel, model: onnx.ModelProto) -> dict[str, Range]:
    found = ranges_by_running(source, *(feeds_of(model, seed) for seed in range(3)))
    return dict(found.ranges)


def pairs(model: onnx.ModelProto) -> dict[str, tuple[float, int, type]]:
    """Scale, zero point and element type of each value that is rounded."""
    constants = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    return {
        node.input[0]: (
            constants[node.input[1]].item(),
            constants[node.input[2]].item(),
            constants[node.input[2]].dtype.type,
        )
        for node in model.graph.node
        if node.op_type == "QuantizeLinear"
    }


def test_signed_values_have_zero_point_0(normal: Normal) -> None:
    model = clipped()
    source = normal(model)
    ranges = measured(source, model)
    found = pairs(quantised(source, ranges, SIGNED))
    assert {"x", "b", "c"} <= set(found)
    for name, (scale, zero, kind) in found.items():
        assert (zero, kind) == (0, np.int8)
        limit = max(-ranges[name].low, ranges[name].high)
        assert scale == pytest.approx(limit / 127, rel=0.01)


def test_unsigned_values_use_their_whole_range(normal: Normal) -> None:
    model = clipped()
    source = normal(model)
    ranges = measured(source, model)
    found = pairs(quantised(source, ranges, UNSIGNED))
    for name in ("x", "c"):
        scale, zero, kind = found[name]
        assert kind is np.uint8
        assert scale == pytest.approx((ranges[name].high - ranges[name].low) / 255, rel=0.01)
        assert zero == pytest.approx(-ranges[name].low / scale, abs=0.51)


def test_ranges_are_those_that_are_given(normal: Normal) -> None:
    model = clipped()
    source = normal(model)
    ranges = {**measured(source, model), "c": Range(-1.0, 4.0)}
    scale, zero, _ = pairs(quantised(source, ranges, UNSIGNED))["c"]
    assert scale == pytest.approx(5 / 255)
    assert zero == 51


@pytest.mark.parametrize("exclude", [(), ("second",)])
def test_a_clip_becomes_a_part_of_the_rounding(normal: Normal, exclude: tuple[str, ...]) -> None:
    model = clipped()
    source = normal(model)
    found = quantised(source, measured(source, model), UNSIGNED, exclude)
    assert "Clip" not in {node.op_type for node in found.graph.node}
    first = next(node for node in found.graph.node if node.name == "first")
    scale, zero, _ = pairs(found)[first.output[0]]
    assert scale == pytest.approx(2 / 255)
    assert zero == 0


@BOTH
def test_excluded_operators_keep_their_weights(normal: Normal, encoding: Encoding) -> None:
    model = clipped()
    source = normal(model)
    ranges = measured(source, model)
    found = quantised(source, ranges, encoding, exclude=("second",))
    nodes = {node.name: node for node in found.graph.node}
    floats = {tensor.name for tensor in found.graph.initializer if tensor.data_type == 1}
    assert nodes["second"].input[1] in floats
    assert nodes["first"].input[1] not in floats
    assert nodes["third"].input[1] not in floats


@BOTH
def test_nothing_is_rounded_where_all_is_excluded(normal: Normal, encoding: Encoding) -> None:
    model = clipped()
    source = normal(model)
    assert not activation_names(source.proto.graph, exclude=CONVOLUTIONS)
    found = quantised(source, {}, encoding, exclude=CONVOLUTIONS)
    assert not pairs(found)
    feeds = feeds_of(model)
    assert np.allclose(run(found, feeds)["y"], run(model, feeds)["y"], atol=1e-5)


@BOTH
def test_computes_nearly_the_same(normal: Normal, encoding: Encoding) -> None:
    """Operator by operator: sums of kernels may saturate on this processor."""
    model = clipped()
    source = normal(model)
    found = quantised(source, measured(source, model), encoding)
    feeds = feeds_of(model)
    assert noise_db(run(model, feeds), run(found, feeds, optimise=False)) > 28


def test_kernels_compute_nearly_the_same(normal: Normal) -> None:
    """On any processor, with a bit less in each weight."""
    model = clipped()
    source = normal(model)
    found = quantised(source, measured(source, model), SATURATING)
    feeds = feeds_of(model)
    assert noise_db(run(model, feeds), run(found, feeds)) > 25
