"""Outputs that may be written over an input: only one that dies, and only by the right operator."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from swapnet.builder.cutting.inplace import inplace_outputs
from swapnet.builder.cutting.partition import Part
from swapnet.builder.importing.graph import Graph

Import = Callable[..., Graph]


@pytest.fixture
def graph(import_model: Import) -> Graph:
    """x -> Sin a, Cos b -> Add(a, b) c -> its largest row, added again -> y."""
    weights = [numpy_helper.from_array(np.eye(64, dtype=np.float32), "w0")]
    make = helper.make_node
    nodes = [
        make("Sin", ["x"], ["a"]),
        make("Cos", ["x"], ["b"]),
        make("Add", ["a", "b"], ["c"]),
        make("ReduceMax", ["c"], ["row"], axes=[0], keepdims=1),
        make("Add", ["row", "c"], ["d"]),
        make("MatMul", ["d", "w0"], ["y"]),
    ]
    info = helper.make_tensor_value_info
    made = helper.make_graph(
        nodes,
        "toy",
        [info("x", TensorProto.FLOAT, [4, 64])],
        [info("y", TensorProto.FLOAT, [4, 64])],
        weights,
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    return import_model(model)


def part(nodes: Sequence[onnx.NodeProto], inputs: Sequence[str], outputs: Sequence[str]) -> Part:
    return Part(tuple(nodes), tuple(inputs), tuple(outputs), (), (), lookup=False)


def node(graph: Graph, output: str) -> onnx.NodeProto:
    return next(n for n in graph.nodes if output in n.output)


def test_a_sum_is_written_over_what_it_adds(graph: Graph) -> None:
    add = node(graph, "c")
    assert inplace_outputs(graph, part([add], ["a", "b"], ["c"])) == {"c": "a"}
    assert inplace_outputs(graph, part([add], ["b"], ["c"])) == {"c": "b"}


def test_what_is_read_later_in_the_block_stays(graph: Graph) -> None:
    add, again = node(graph, "c"), helper.make_node("Neg", ["a"], ["z"])
    assert inplace_outputs(graph, part([add, again], ["a", "b"], ["c", "z"])) == {"c": "b"}


def test_an_output_of_another_shape_stays_apart(graph: Graph) -> None:
    add = node(graph, "d")
    assert inplace_outputs(graph, part([add], ["row"], ["d"])) == {}
    assert inplace_outputs(graph, part([add], ["row", "c"], ["d"])) == {"d": "c"}


def test_an_operand_used_twice_stays(graph: Graph) -> None:
    twice = helper.make_node("Add", ["a", "a"], ["c"])
    assert inplace_outputs(graph, part([twice], ["a"], ["c"])) == {}


def test_other_operators_are_left_alone(graph: Graph) -> None:
    assert inplace_outputs(graph, part([node(graph, "b")], ["x"], ["b"])) == {}


def test_a_convolution_is_written_over_its_sum(graph: Graph) -> None:
    fused = helper.make_node("Conv", ["b", "w0", "", "a"], ["c"], domain="com.microsoft.nchwc")
    assert inplace_outputs(graph, part([fused], ["a", "b"], ["c"])) == {"c": "a"}
    assert inplace_outputs(graph, part([fused], ["b"], ["c"])) == {}
