"""Outputs that may be written over an input: only one that dies, and only by the right operator."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from swapnet.builder.cutting.inplace import _ELEMENTWISE, inplace_outputs
from swapnet.builder.cutting.partition import Part
from swapnet.builder.cutting.placing import lives_of
from swapnet.builder.importing.graph import Graph
from swapnet.executor.backends.onnxruntime import session_options

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


def pairs(graph: Graph, nodes: Sequence[onnx.NodeProto], alive: dict[str, int]) -> dict[str, str]:
    """Pairs in a part that starts with operator 1; ``alive`` are the last operators of values."""
    outputs = [name for other in nodes for name in other.output]
    made = Part(tuple(nodes), tuple(alive), tuple(outputs), (), (), lookup=False)
    return inplace_outputs(graph, made, {name: (0, last) for name, last in alive.items()}, 1)


def node(graph: Graph, output: str) -> onnx.NodeProto:
    return next(n for n in graph.nodes if output in n.output)


def test_a_sum_is_written_over_what_it_adds(graph: Graph) -> None:
    add = node(graph, "c")
    assert pairs(graph, [add], {"a": 1, "b": 1}) == {"c": "a"}
    assert pairs(graph, [add], {"b": 1}) == {"c": "b"}


def test_what_is_read_later_stays(graph: Graph) -> None:
    add = node(graph, "c")
    assert pairs(graph, [add], {"a": 2, "b": 1}) == {"c": "b"}
    assert pairs(graph, [add], {"a": 2, "b": 2}) == {}


def test_an_output_of_another_shape_stays_apart(graph: Graph) -> None:
    add = node(graph, "d")
    assert pairs(graph, [add], {"row": 1}) == {}
    assert pairs(graph, [add], {"row": 1, "c": 1}) == {"d": "c"}


def test_an_operand_used_twice_stays(graph: Graph) -> None:
    twice = helper.make_node("Add", ["a", "a"], ["c"])
    assert pairs(graph, [twice], {"a": 1}) == {}


def test_other_operators_are_left_alone(graph: Graph) -> None:
    assert pairs(graph, [node(graph, "b")], {"a": 1}) == {}
    foreign = helper.make_node("Add", ["a", "b"], ["c"], domain="com.example")
    assert pairs(graph, [foreign], {"a": 1, "b": 1}) == {}


def test_a_convolution_is_written_over_its_sum(graph: Graph) -> None:
    fused = helper.make_node("Conv", ["b", "w0", "", "a"], ["c"], domain="com.microsoft.nchwc")
    assert pairs(graph, [fused], {"a": 1, "b": 1}) == {"c": "a"}
    assert pairs(graph, [fused], {"b": 1}) == {}
    assert pairs(graph, [fused], {"a": 1}) == {}, "its data may be a view of the sum"


def test_a_value_inside_is_overwritten_too(graph: Graph) -> None:
    whole = [node(graph, name) for name in "ab"] + [node(graph, "c")]
    part = Part(tuple(whole), ("x",), ("a", "b", "c"), (), (), lookup=False)
    lives = lives_of(graph, [part])
    assert lives == {"a": (0, 2), "b": (1, 2), "c": (2, 2)}
    assert inplace_outputs(graph, part, lives) == {"c": "a"}


def test_a_view_is_written_over_what_it_shows(graph: Graph) -> None:
    view = helper.make_node("Reshape", ["a", "shape"], ["c"])
    assert pairs(graph, [view], {"a": 1}) == {"c": "a"}
    assert pairs(graph, [view], {"a": 2}) == {}
    assert pairs(graph, [helper.make_node("Flatten", ["row"], ["c"])], {"row": 1}) == {}


@pytest.mark.parametrize("kind", sorted(_ELEMENTWISE))
def test_the_bits_are_the_same_in_place(kind: str) -> None:
    """At a size that vectors do not divide, over the first operand and over the second."""
    binary = kind in ("Add", "Sub", "Mul", "Div")
    shape = (3, 331, 67)
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name in ("a", *(["b"] if binary else []), "y")
    ]
    node = helper.make_node(kind, [end.name for end in ends[:-1]], ["y"])
    made = helper.make_graph([node], "one", ends[:-1], ends[-1:])
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    session = ort.InferenceSession(model.SerializeToString(), session_options(shared_arena=False))
    random = np.random.default_rng(0)
    feeds = {end.name: random.normal(size=shape).astype(np.float32) for end in ends[:-1]}
    (expected,) = session.run(["y"], feeds)
    for name in feeds:
        arrays = {other: array.copy() for other, array in feeds.items()}
        arrays["y"] = arrays[name]
        binding = session.io_binding()
        for other, array in arrays.items():
            bind = binding.bind_output if other == "y" else binding.bind_input
            bind(other, "cpu", 0, np.float32, list(shape), array.ctypes.data)
        session.run_with_iobinding(binding)
        assert arrays[name].tobytes() == expected.tobytes()
