from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from swapnet.builder.precision.half import to_float16
from swapnet.ranges import Range
from tests.builder.precision.conftest import Normal, convolutions, feeds_of, noise_db, run


def test_computes_nearly_the_same_with_float32_ends(normal: Normal) -> None:
    model = convolutions()
    source = normal(model)
    half = to_float16(source.proto, source.path.parent)
    ends = (*half.graph.input, *half.graph.output)
    assert {end.type.tensor_type.elem_type for end in ends} == {TensorProto.FLOAT}
    assert _kinds(half) == {TensorProto.FLOAT16}
    feeds = feeds_of(model)
    assert noise_db(run(model, feeds), run(half, feeds)) > 50


def test_operators_that_overflow_on_the_data_stay_float32(normal: Normal) -> None:
    source = normal(convolutions())
    node = source.proto.graph.node[0]
    ranges = {node.output[0]: Range(-40000.0, 1.0)}
    half = to_float16(source.proto, source.path.parent, ranges=ranges)
    assert TensorProto.FLOAT in _kinds(half)
    near = {node.output[0]: Range(-30000.0, 1.0)}
    assert _kinds(to_float16(source.proto, source.path.parent, ranges=near)) == {
        TensorProto.FLOAT16
    }


def test_weights_beyond_float16_stay_float32(normal: Normal) -> None:
    model = convolutions()
    last = next(t for t in model.graph.initializer if list(t.dims) == [40, 32])
    array = numpy_helper.to_array(last).copy()
    array[0, 0] = 1e5
    last.CopyFrom(numpy_helper.from_array(array, last.name))
    source = normal(model)
    half = to_float16(source.proto, source.path.parent)
    wide = {t.name for t in half.graph.initializer if t.data_type == TensorProto.FLOAT}
    assert {n.op_type for n in half.graph.node if wide & {*n.input}} == {"Gemm"}
    feeds = feeds_of(model)
    assert noise_db(run(model, feeds), run(half, feeds)) > 40


def test_excluded_operators_stay_float32(normal: Normal) -> None:
    source = normal(convolutions())
    name = source.proto.graph.node[0].name
    half = to_float16(source.proto, source.path.parent, exclude=[name])
    kept = next(node for node in half.graph.node if node.name == name)
    stored = {t.name: t.data_type for t in half.graph.initializer}
    assert stored[kept.input[1]] == TensorProto.FLOAT


def _kinds(proto: onnx.ModelProto) -> set[int]:
    """Types of the weights that are large enough to matter."""
    return {t.data_type for t in proto.graph.initializer if np.prod(t.dims) >= 64}
