from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto

from swapnet.builder.compilers.skeleton import skeleton
from swapnet.builder.cutting.partition import partition
from swapnet.builder.importing.graph import Graph
from swapnet.builder.rewriting.localise_shapes import localise_shapes, shape_values
from swapnet.builder.rewriting.optimise import Operators
from tests.helpers.zoo import Net, mlp

Import = Callable[..., Graph]


def chain(dims: tuple[int | str, ...] = ("rows", 64)) -> Net:
    """The shape of the input, used after several products: directly, halved, and as data."""
    net = Net()
    x = net.input("x", dims)
    shape = net("Shape", x)
    rows = net("Gather", shape, net.constant(np.array([0])))
    half = net("Div", net("Add", rows, rows), net.constant(np.array([2])))
    value = x
    for _ in range(3):
        value = net("Relu", net.dense(value, 64, 64))
    start = net.constant(np.array([0]))
    net.output(net.dense(net("Slice", value, start, half, start), 64, 8))
    return net


def imported(import_model: Import, model: onnx.ModelProto) -> Graph:
    return import_model(model, {"x": (2, 64)}, Operators.STANDARD)


def test_all_that_reaches_a_shape_is_found(import_model: Import) -> None:
    graph = imported(import_model, chain().model())
    found = shape_values(graph)
    kinds = {node.output[0]: node.op_type for node in graph.nodes}
    assert sorted(kinds[name] for name in found) == ["Add", "Div", "Gather", "Shape"]


def test_no_shape_crosses_a_cut(import_model: Import) -> None:
    graph = imported(import_model, chain().model())
    found = shape_values(graph)
    shapes_first = sorted(graph.nodes, key=lambda node: node.output[0] not in found)
    graph = replace(graph, nodes=shapes_first)
    limit = 16 << 10
    cut_anywhere = partition(graph, limit)
    assert any(found.intersection(part.outputs) for part in cut_anywhere)
    parts = partition(graph, limit, uncut=found)
    assert len(parts) > 1
    assert not any(found.intersection((*part.inputs, *part.outputs)) for part in parts)


def test_a_shape_that_is_an_output_crosses_no_cut_either(import_model: Import) -> None:
    net = chain()
    net.output(net.nodes[0].output[0])
    graph = imported(import_model, net.model())
    found = shape_values(graph)
    parts = partition(graph, 16 << 10, uncut=found)
    assert not any(found.intersection(part.inputs) for part in parts)


def test_a_cut_that_costs_more_is_made_less_often(import_model: Import) -> None:
    graph = imported(import_model, chain((2, 64)).model())
    assert len(partition(graph, 1 << 20)) == 1
    assert len(partition(graph, 20 << 10)) > 2


def test_sizes_are_not_searched_in_data(import_model: Import) -> None:
    """The largest of many numbers says how often something is repeated; they are no shape."""
    net = Net()
    x = net.input("x", (2, 64))
    many = net("Relu", net.dense(x, 64, 64))
    largest = net("ReduceMax", many, keepdims=0)
    times = net("Cast", largest, to=TensorProto.INT64)
    times = net("Reshape", times, net.constant(np.array([1])))
    net.output(net("Expand", net.weight(1), times))
    graph = imported(import_model, net.model())
    found = shape_values(graph)
    assert many not in found
    assert "x" not in found
    assert largest in found


def test_bodies_read_shapes_too(import_model: Import) -> None:
    net = Net()
    x = net.input("x", ("rows", 64))
    target = net("Shape", net("Transpose", x, perm=[1, 0]))
    then = Net(prefix="then/")
    then.output(then("Reshape", x, target))
    otherwise = Net(prefix="else/")
    otherwise.output(otherwise("Transpose", x, perm=[1, 0]))
    condition = net(
        "Greater", net("ReduceSum", x, keepdims=0), net.constant(np.array(0, np.float32))
    )
    net.output(
        net(
            "If",
            condition,
            then_branch=then.body("then"),
            else_branch=otherwise.body("otherwise"),
        )
    )
    found = shape_values(imported(import_model, net.model()))
    assert target in found


def outputs(graph: Graph, feeds: dict[str, NDArray[Any]]) -> list[NDArray[Any]]:
    """Of the whole graph, run by ONNX Runtime."""
    (part,) = partition(graph, 1 << 40, cut_cost_bytes=1 << 50)
    session = onnxruntime.InferenceSession(skeleton(graph, part, "whole").SerializeToString())
    weights = {
        constant.name: constant.bytes().view(constant.dtype).reshape(constant.shape)
        for constant in map(graph.constants.__getitem__, part.weights)
    }
    return list(session.run(None, feeds | weights))


def test_localised_shapes_let_the_graph_be_cut(import_model: Import) -> None:
    """A shape is read first and last: between them no cut is allowed until it is repeated."""
    net = Net()
    x = net.input("x", ("rows", 64))
    shape = net("Shape", x)
    rows = net("Gather", shape, net.constant(np.array([0])))
    start = net.constant(np.array([0]))
    value = x
    for _ in range(4):
        half = net("Div", net("Add", rows, rows), net.constant(np.array([2])))
        value = net("Relu", net.dense(net("Slice", value, start, half, start), 64, 64))
    net.output(value, shape)
    graph = imported(import_model, net.model())
    localised = localise_shapes(graph)
    limit = 16 << 10
    assert len(partition(graph, limit, uncut=shape_values(graph))) == 2
    found = shape_values(localised)
    parts = partition(localised, limit, uncut=found)
    assert len(parts) == 4
    assert not any(found.intersection(part.inputs) for part in parts)
    feeds = {"x": np.random.default_rng(0).standard_normal((2, 64)).astype(np.float32)}
    for got, expected in zip(outputs(localised, feeds), outputs(graph, feeds), strict=True):
        np.testing.assert_array_equal(got, expected)


def test_shapes_of_large_values_are_not_kept_alive(import_model: Import) -> None:
    net = Net()
    x = net.input("x", ("rows", 64))
    large = net("Tile", x, net.constant(np.array([1, 6000])))
    shape = net("Slice", net("Shape", large), *(net.constant(np.array([i])) for i in (0, 1)))
    value = net("Relu", net.dense(net("ReduceMean", large, keepdims=1), 1, 64))
    net.output(
        net(
            "Expand", net.weight(1, 64), net("Concat", shape, net.constant(np.array([64])), axis=0)
        ),
        value,
    )
    graph = imported(import_model, net.model())
    assert [node.output for node in localise_shapes(graph).nodes] == [
        node.output for node in graph.nodes
    ]


def test_a_graph_without_shapes_stays(import_model: Import) -> None:
    graph = import_model(mlp(), None, Operators.STANDARD)
    assert [n.SerializeToString() for n in localise_shapes(graph).nodes] == [
        n.SerializeToString() for n in graph.nodes
    ]
