"""Convolutions of k x 1 on tensors of width 1 give the same bits as convolutions of 1 x k."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray

from swapnet.builder.importing.graph import Graph
from swapnet.builder.rewriting.columns_as_rows import lay_columns_as_rows
from swapnet.builder.rewriting.optimise import Operators
from tests.builder.rewriting.test_block_rows import as_model
from tests.helpers.zoo import Net

Import = Callable[..., Graph]


def column(
    height: int | str = 61,
    kernel: tuple[int, int] = (16, 1),
    *,
    rows: int | str = 2,
    width: int = 1,
    inner: int = 16,
    outer: int = 32,
    group: int = 1,
    strides: tuple[int, int] = (1, 1),
    pads: tuple[int, int, int, int] = (0, 0, 0, 0),
    dilations: tuple[int, int] = (1, 1),
) -> onnx.ModelProto:
    net = Net()
    net.output(
        net(
            "Relu",
            net(
                "Conv",
                net.input("x", (rows, inner, height, width)),
                net.weight(outer, inner // group, *kernel),
                net.weight(outer),
                strides=strides,
                pads=pads,
                dilations=dilations,
                kernel_shape=kernel,
                group=group,
            ),
        )
    )
    return net.model()


def run(graph: Graph, x: NDArray[np.float32]) -> NDArray[np.float32]:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(as_model(graph).SerializeToString(), options)
    (found,) = session.run(None, {"x": x})
    assert isinstance(found, np.ndarray)
    return found


def kernels(graph: Graph) -> list[tuple[int, ...]]:
    convolutions = [node for node in graph.nodes if "Conv" in node.op_type]
    return [graph.shapes(node.input[1])[1][2:] for node in convolutions]


@pytest.mark.parametrize("operators", [Operators.HARDWARE, Operators.PORTABLE])
@pytest.mark.parametrize(
    "model",
    [
        column(),
        column(60, (3, 1), pads=(1, 0, 1, 0)),
        column(64, (2, 1), strides=(2, 1)),
        column(61, (7, 1), strides=(3, 2), pads=(3, 0, 0, 0)),
        column(61, (5, 1), pads=(4, 0, 4, 0), dilations=(2, 3)),
        column(128, (64, 1), pads=(31, 0, 32, 0), rows=1),
        column(512, (64, 1), strides=(4, 1), pads=(30, 0, 30, 0), inner=1),
        column(61, (5, 1), group=2),
        column(61, (31, 1), pads=(15, 0, 15, 0), outer=16, group=16),
        column(61, (4, 1), inner=12, outer=40),
    ],
)
def test_the_bits_are_the_same(
    import_model: Import, model: onnx.ModelProto, operators: Operators
) -> None:
    graph = import_model(model, operators=operators)
    turned = lay_columns_as_rows(graph)
    (before,), (after,) = kernels(graph), kernels(turned)
    assert after == before[::-1]
    assert all(turned.values[value.name] == value for value in graph.outputs)
    shape = tuple(dim for dim in graph.inputs[0].shape if isinstance(dim, int))
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    found, expected = run(turned, x), run(graph, x)
    assert found.shape == expected.shape
    assert found.tobytes() == expected.tobytes()


@pytest.mark.parametrize(
    "model",
    [
        column(width=2),
        column(kernel=(1, 1)),
        column(kernel=(3, 3), pads=(0, 1, 0, 1)),
        column(strides=(1, 2), pads=(0, 1, 0, 0)),
        column("samples"),
        column(4001, (5, 1), dilations=(2, 1), inner=32),
    ],
)
def test_others_stay(import_model: Import, model: onnx.ModelProto) -> None:
    shapes = (
        {"x": (2, 16, 61, 1)}
        if model.graph.input[0].type.tensor_type.shape.dim[2].dim_param
        else {}
    )
    graph = import_model(model, shapes)
    assert lay_columns_as_rows(graph) is graph


def test_a_weight_that_is_used_twice_stays(import_model: Import) -> None:
    net = Net()
    x, weight = net.input("x", (1, 16, 40, 1)), net.weight(16, 16, 8, 1)
    net.output(net("Conv", net("Conv", x, weight), weight))
    graph = import_model(net.model())
    assert lay_columns_as_rows(graph) is graph


def test_no_rows_give_no_rows(import_model: Import) -> None:
    model = column(rows="batch")
    graph = import_model(model, {"x": (2, 16, 61, 1)})
    turned = lay_columns_as_rows(graph)
    assert kernels(turned) == [(1, 16)]
    assert run(turned, np.zeros((0, 16, 61, 1), np.float32)).shape == (0, 32, 46, 1)
