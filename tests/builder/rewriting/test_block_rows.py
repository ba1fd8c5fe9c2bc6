"""Rows of tables in blocks of few bits are computed as the whole table was, to the bit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from swapnet.builder.importing.graph import Graph
from swapnet.builder.importing.lookup import is_lookup
from swapnet.builder.rewriting.rows_first import gather_rows_first
from swapnet.builder.rewriting.slicing import slice_operators
from swapnet.executor.backends.windows import packs_bits
from swapnet.tensors import ONNX_TYPES
from tests.helpers.zoo import Net

Import = Callable[..., Graph]

ROWS, WIDTH = 8192, 288 if packs_bits(onnxruntime.__version__) else 256
"""Nine blocks of 32: zero points of a row end within a byte, which ONNX Runtime 1.23 gets wrong."""

INT4, UINT4 = TensorProto.INT4, TensorProto.UINT4
RANDOM = np.random.default_rng(7)


def packed(net: Net, kind: int, *shape: int) -> str:
    """A constant of random bytes with elements of a type of ONNX."""
    bits = 4 if kind in (INT4, UINT4) else 8
    name = f"c{len(net.weights)}"
    data = RANDOM.integers(0, 256, int(np.prod(shape)) * bits // 8, np.uint8).tobytes()
    net.weights.append(helper.make_tensor(name, kind, shape, data, raw=True))
    return name


def scales(net: Net, *shape: int) -> str:
    return net.constant(RANDOM.uniform(-0.02, 0.02, shape).astype(np.float32))


def table(
    kind: int,
    *,
    bits: int = 4,
    zeros: bool = True,
    tied: bool = False,
    rows: int = ROWS,
    scalar: bool = False,
) -> onnx.ModelProto:
    """``GatherBlockQuantized``; as bytes where ``kind`` is uint8."""
    net = Net()
    ids = net.input("ids", () if scalar else ("batch", "tokens"), TensorProto.INT64)
    each = 8 // bits if kind == TensorProto.UINT8 else 1
    blocks = WIDTH // 32
    sizes: dict[str, Any] = {"block_size": 32, "bits": bits, "domain": "com.microsoft"}
    points = [packed(net, kind, rows, -(-blocks // each))] if zeros else []
    data, steps = packed(net, kind, rows, WIDTH // each), scales(net, rows, blocks)
    if tied:
        weight = [packed(net, kind, rows, blocks, 32 // each), scales(net, rows * blocks), *points]
        product = {"K": WIDTH, "N": rows, "accuracy_level": 4} | sizes
        net.output(net("MatMulNBits", net.input("x", (1, WIDTH)), *weight, **product))
        data = net("Reshape", weight[0], net.constant(np.array([rows, WIDTH // each])))
        steps = net("Reshape", weight[1], net.constant(np.array([rows, blocks])))
    sizes |= {"gather_axis": 0, "quantize_axis": 1}
    net.output(net("GatherBlockQuantized", data, ids, steps, *points, **sizes))
    return net.model(21, ir_version=10)


def dequantised(kind: int, *, zeros: bool = True) -> onnx.ModelProto:
    """``Gather`` of what ``DequantizeLinear`` gives."""
    net = Net()
    ids = net.input("ids", ("batch", "tokens"), TensorProto.INT64)
    given = [packed(net, kind, ROWS, WIDTH), scales(net, ROWS, WIDTH // 32)]
    given += [packed(net, kind, ROWS, WIDTH // 32)] if zeros else []
    net.output(net("Gather", net("DequantizeLinear", *given, axis=1, block_size=32), ids))
    return net.model(21, ir_version=10)


def as_model(graph: Graph) -> onnx.ModelProto:
    constants = [
        helper.make_tensor(n, ONNX_TYPES[c.dtype], c.shape, c.bytes().tobytes(), raw=True)
        for n, c in graph.constants.items()
    ]
    inputs = [
        helper.make_tensor_value_info(v.name, ONNX_TYPES[v.dtype], v.shape) for v in graph.inputs
    ]
    outputs = [onnx.ValueInfoProto(name=v.name) for v in graph.outputs]
    initial = [*constants, *graph.inline.values()]
    proto = helper.make_graph(list(graph.nodes), "rows", inputs, outputs, initial)
    return helper.make_model(
        proto, opset_imports=list(graph.opset_imports), ir_version=graph.ir_version
    )


def run(model: onnx.ModelProto, ids: NDArray[Any]) -> NDArray[Any]:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    feeds = {"ids": ids, "x": np.ones((1, WIDTH), np.float32)}
    given = {value.name: feeds[value.name] for value in session.get_inputs()}
    (found,) = session.run([session.get_outputs()[-1].name], given)
    assert isinstance(found, np.ndarray)
    return found


@pytest.mark.parametrize(
    "model",
    [
        table(TensorProto.UINT8),
        table(TensorProto.UINT8, zeros=False),
        table(TensorProto.UINT8, bits=8),
        table(UINT4, zeros=False),
        table(INT4),
        dequantised(INT4),
        dequantised(TensorProto.INT8),
        dequantised(TensorProto.UINT8, zeros=False),
    ],
)
def test_rows_are_those_of_the_table(import_model: Import, model: onnx.ModelProto) -> None:
    graph = gather_rows_first(import_model(model, {"ids": (2, 3)}))
    assert sum(is_lookup(graph, node) for node in graph.nodes) == 1
    assert not {"GatherBlockQuantized", "DequantizeLinear"} & {n.op_type for n in graph.nodes}
    assert all(graph.values[value.name] == value for value in graph.outputs)
    for ids in (np.array([[0, ROWS - 1, 7], [-1, 7, 3]]), np.array([[5]])):
        np.testing.assert_array_equal(run(as_model(graph), ids), run(model, ids))


@pytest.mark.parametrize("model", [table(TensorProto.UINT8, rows=1024), table(UINT4, scalar=True)])
def test_small_tables_and_single_rows_stay(import_model: Import, model: onnx.ModelProto) -> None:
    graph = import_model(model)
    assert gather_rows_first(graph) is graph


def test_a_table_that_is_multiplied_too_is_one_constant(import_model: Import) -> None:
    rows, blocks = 4 * ROWS, WIDTH // 32
    model = table(TensorProto.UINT8, tied=True, rows=rows)
    graph = import_model(model, {"ids": (2, 3)})
    sliced = slice_operators(gather_rows_first(graph), 512 << 10)
    products = [node for node in sliced.nodes if node.op_type == "MatMulNBits"]
    used = {name for node in sliced.nodes for name in node.input if name in sliced.constants}
    data, steps = (node.input[0] for node in sliced.nodes if is_lookup(sliced, node))
    whole = sliced.constants[data].data
    assert len(products) > 1
    assert all(sliced.constants[node.input[1]].data is whole for node in products)
    assert {steps} < used
    stored = {id(sliced.constants[n].data): sliced.constants[n].data.nbytes for n in used}
    assert sum(stored.values()) == rows * (WIDTH // 2 + 4 * blocks + (blocks + 1) // 2)
    ids = np.array([[0, rows - 1, 7], [-1, 7, 3]])
    np.testing.assert_array_equal(run(as_model(sliced), ids), run(model, ids))
