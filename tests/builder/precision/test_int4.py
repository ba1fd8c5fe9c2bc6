"""Weights of products and tables in blocks of 4 bits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper
from onnx.external_data_helper import load_external_data_for_model

from swapnet.builder.importing.source import SourceModel
from swapnet.builder.precision import int4
from swapnet.builder.precision.int4 import in_int4
from swapnet.errors import ModelError
from tests.builder.precision.conftest import Normal, feeds_of, noise_db, run
from tests.helpers.zoo import Net


def converted(source: SourceModel, **options: Any) -> onnx.ModelProto:
    options = {"block_size": 32, "accuracy_level": 0} | options
    proto = in_int4(source, source.path.parent, **options)
    load_external_data_for_model(proto, str(source.path.parent))
    return proto


def kinds(proto: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in proto.graph.node)


def arrays(proto: onnx.ModelProto) -> dict[str, NDArray[Any]]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}


def widened(proto: onnx.ModelProto, node: onnx.NodeProto) -> NDArray[np.float32]:
    """The weight that a product stands for, a row for each column."""
    blocks, scales, zeros = (arrays(proto)[name] for name in node.input[1:4])
    length = next(a.i for a in node.attribute if a.name == "K")
    steps = np.stack([blocks & 15, blocks >> 4], axis=-1).reshape(*scales.shape, -1)
    points = np.stack([zeros & 15, zeros >> 4], axis=-1).reshape(len(zeros), -1)
    centred = steps.astype(np.float32) - points[:, : scales.shape[1], None]
    columns = (centred * scales[..., None]).reshape(len(scales), -1)[:, :length]
    assert isinstance(columns, np.ndarray)
    return columns


def products(net: Net, value: str) -> str:
    value = net("Tanh", net.dense(value, 128, 200))
    value = net("Tanh", net("Gemm", value, net.weight(96, 200), net.weight(96), transB=1))
    return net("Gemm", value, net.weight(96, 77))


def shared(net: Net, value: str) -> str:
    """Two products with one weight, and two with equal ones."""
    weight = net.weight(128, 128)
    value = net("MatMul", net("Tanh", net("MatMul", value, weight)), weight)
    array = np.random.default_rng(1).standard_normal((128, 96)).astype(np.float32)
    ends = [net("MatMul", net("Tanh", value), net.constant(array.copy())) for _ in range(2)]
    return net("Sub", *ends)


@pytest.mark.parametrize(
    ("write", "count", "tensors"), [(products, 3, 3), (shared, 4, 2)], ids=["odd", "shared"]
)
def test_products_have_nearly_their_weights(
    normal: Normal, write: Callable[[Net, str], str], count: int, tensors: int
) -> None:
    net = Net()
    net.output(write(net, net.input("x", (3, 128))))
    model = net.model()
    proto = converted(normal(model))
    assert kinds(proto)["MatMulNBits"] == count
    assert len({n.input[1] for n in proto.graph.node if n.op_type == "MatMulNBits"}) == tensors
    feeds = feeds_of(model)
    if write is products:
        assert noise_db(run(model, feeds), run(proto, feeds)) > 15
    originals = [array for array in arrays(model).values() if array.ndim == 2]
    for node in proto.graph.node:
        if node.op_type == "MatMulNBits":
            columns = widened(proto, node)
            errors = [
                np.abs(columns - matrix).max() / np.abs(matrix).max()
                for original in originals
                for matrix in (original, original.T)
                if matrix.shape == columns.shape
            ]
            assert min(errors) < 0.08


@pytest.mark.parametrize("block_size", [32, 64, 128])
def test_pieces_are_rounded_as_the_whole(
    normal: Normal, monkeypatch: pytest.MonkeyPatch, block_size: int
) -> None:
    net = Net()
    net.output(net.dense(net.input("x", (3, 150)), 150, 61))
    source = normal(net.model())
    whole = arrays(converted(source, block_size=block_size))
    monkeypatch.setattr(int4, "_PIECE_ELEMENTS", 1000)
    pieces = arrays(converted(source, block_size=block_size))
    for name, array in whole.items():
        np.testing.assert_array_equal(pieces[name], array)


def test_a_tied_table_is_stored_once(normal: Normal) -> None:
    net = Net()
    table = net.weight(16384, 128)
    rows = net("Gather", table, net.input("ids", (3,), TensorProto.INT64))
    net.output(net("MatMul", rows, net("Transpose", table, perm=[1, 0])))
    model = net.model()
    proto = converted(normal(model))
    assert kinds(proto) == {"Reshape": 1, "GatherBlockQuantized": 1, "MatMulNBits": 1}
    stored = sum(len(tensor.raw_data) for tensor in proto.graph.initializer)
    assert stored == 16384 * (64 + 4 * 4 + 2) + 16
    feeds: dict[str, Any] = {"ids": np.array([0, 16383, 5])}
    assert noise_db(run(model, feeds), run(proto, feeds)) > 18


def test_what_others_read_or_is_excluded_stays(normal: Normal) -> None:
    net = Net()
    value, table = net.input("x", (3, 128)), net.weight(4096, 128)
    added = net.weight(128, 128)
    value = net(
        "MatMul", net("Add", net("MatMul", value, added), net("Gather", added, "ids")), added
    )
    net.input("ids", (3,), TensorProto.INT64)
    value = net("Add", value, net("Gather", table, "ids"))  # too small a table
    value = net("Gemm", value, net.weight(128, 128), alpha=0.5)
    value = net("MatMul", net.dense(value, 128, 128), net.weight(2, 128, 128))
    net.output(net.dense(net("Tanh", value), 128, 8), net.dense(net("Tanh", value), 128, 128))
    source = normal(net.model())
    nodes = {node.output[0]: node.name for node in source.proto.graph.node}
    last = nodes[source.proto.graph.output[1].name]
    proto = converted(source, exclude=[last])
    assert kinds(proto)["MatMulNBits"] == 1
    assert kinds(proto)["MatMul"] == kinds(source.proto)["MatMul"] - 1
    assert last in {node.name for node in proto.graph.node}


def test_weights_that_are_listed_as_inputs_are_none_after(normal: Normal) -> None:
    net = Net()
    weight = net.weight(128, 128)
    value = net("MatMul", net.input("x", (3, 128)), weight)
    net.input(weight, (128, 128))
    net.output(value)
    model = net.model()
    proto = converted(normal(model))
    assert [value.name for value in proto.graph.input] == ["x"]
    feeds = {"x": feeds_of(model)["x"]}
    assert noise_db(run(model, feeds), run(proto, feeds)) > 15


def test_products_round_what_they_multiply_unless_told(normal: Normal) -> None:
    net = Net()
    net.output(net.dense(net.input("x", (3, 128)), 128, 128))
    (node,) = converted(normal(net.model()), accuracy_level=4, block_size=64).graph.node
    numbers = {a.name: a.i for a in node.attribute}
    assert numbers == {"K": 128, "N": 128, "bits": 4, "block_size": 64, "accuracy_level": 4}


@pytest.mark.parametrize(("width", "value"), [(8, 1.0), (128, np.nan), (128, np.inf)])
def test_nothing_to_store_and_what_is_not_finite_is_refused(
    normal: Normal, width: int, value: float
) -> None:
    net = Net()
    weight = np.full((128, width), value, np.float32)
    net.output(net("MatMul", net.input("x", (3, 128)), net.constant(weight)))
    with pytest.raises(ModelError, match=r"becomes int4|can't be quantised"):
        converted(normal(net.model()))
