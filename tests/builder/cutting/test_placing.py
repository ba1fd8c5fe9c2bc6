"""Values inside blocks: which get places, and how long their memory is needed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from swapnet.builder.cutting.cut import Span
from swapnet.builder.cutting.partition import Part, part_of
from swapnet.builder.cutting.placing import lives_of, with_inner_outputs
from swapnet.builder.importing.graph import Graph

Import = Callable[..., Graph]


@pytest.fixture
def graph(import_model: Import) -> Graph:
    """x -> Sin a -> Reshape flat -> Cos b; ReduceMax of b -> least; b * least -> y."""
    make, info = helper.make_node, helper.make_tensor_value_info
    nodes = [
        make("Sin", ["x"], ["a"]),
        make("Reshape", ["a", "shape"], ["flat"]),
        make("Cos", ["flat"], ["b"]),
        make("ReduceMax", ["b"], ["least"], axes=[1], keepdims=1),
        make("Mul", ["b", "least"], ["y"]),
    ]
    made = helper.make_graph(
        nodes,
        "toy",
        [info("x", TensorProto.FLOAT, [64, 64])],
        [info("y", TensorProto.FLOAT, [1, 4096])],
        [numpy_helper.from_array(np.array([1, 4096]), "shape")],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    return import_model(model)


def whole(graph: Graph) -> Part:
    return part_of(graph, Span(0, len(graph.nodes)), ["y"])


def test_large_values_inside_get_places_but_for_views(graph: Graph) -> None:
    (part,) = with_inner_outputs(graph, [whole(graph)])
    assert part.outputs == ("a", "b", "y")


def test_a_view_keeps_the_value_under_it(graph: Graph) -> None:
    lives = lives_of(graph, with_inner_outputs(graph, [whole(graph)]))
    assert lives == {"a": (0, 2), "b": (2, 4), "y": (4, 4)}


def test_a_view_that_crosses_a_cut_is_a_copy(graph: Graph) -> None:
    parts = [part_of(graph, Span(0, 2), ["flat"]), part_of(graph, Span(2, 5), ["y"])]
    lives = lives_of(graph, with_inner_outputs(graph, parts))
    assert lives == {"a": (0, 1), "flat": (1, 2), "b": (2, 4), "y": (4, 4)}


def test_an_output_of_the_same_size_may_be_a_view_too(graph: Graph) -> None:
    lives = lives_of(graph, [part_of(graph, Span(0, 5), ["a", "y"])])
    assert lives["a"] == (0, 4)


def test_lookups_have_no_values_inside(graph: Graph) -> None:
    (part,) = with_inner_outputs(graph, [part_of(graph, Span(0, 5), ["y"], lookup=True)])
    assert part.outputs == ("y",)
