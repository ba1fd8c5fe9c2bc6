from __future__ import annotations

import random
from dataclasses import replace

import onnx
from onnx import helper

from swapnet.builder.importing.graph import Graph
from swapnet.builder.rewriting.as_written import as_written


def node(kind: str, inputs: str, outputs: str, name: str = "") -> onnx.NodeProto:
    return helper.make_node(kind, inputs.split(), outputs.split(), name=name)


EMPTY = Graph("", (), {}, {}, {}, (), (), (), 8)

WRITTEN = [
    node("Conv", "x", "a"),
    node("Conv", "a", "first"),
    node("Conv", "a", "b"),
    node("Conv", "b", "c"),
    node("Add", "c a", "second"),
]

OPTIMISED = [
    node("ReorderInput", "x", "r0"),
    node("Conv", "r0", "r1", "a_nchwc"),
    node("Conv", "r1", "r2", "first_nchwc"),
    node("ReorderOutput", "r2", "first"),
    node("Conv", "r1", "r3", "b_nchwc"),
    node("Conv", "r3", "r4", "c_nchwc"),
    node("Add", "r4 r1", "r5", "second_nchwc"),
    node("ReorderOutput", "r5", "second"),
]


def shuffled(seed: int) -> list[onnx.NodeProto]:
    """An order in which each operator comes after those that it reads."""
    left, known = list(OPTIMISED), {"x"}
    random.Random(seed).shuffle(left)
    order: list[onnx.NodeProto] = []
    while left:
        order.append(left.pop(next(i for i, n in enumerate(left) if known.issuperset(n.input))))
        known |= {*order[-1].output}
    return order


def test_the_order_does_not_depend_on_chance() -> None:
    graphs = [replace(EMPTY, nodes=shuffled(seed)) for seed in range(20)]
    assert len({tuple(n.output[0] for n in graph.nodes) for graph in graphs}) > 1
    for graph in graphs:
        assert [n.output[0] for n in as_written(graph, WRITTEN).nodes] == [
            *("r0", "r1", "r2", "first"),
            *("r3", "r4", "r5", "second"),
        ]


def test_operators_without_a_place_come_after_what_they_read() -> None:
    graph = replace(EMPTY, nodes=shuffled(1))
    order = [n.output[0] for n in as_written(graph, []).nodes]
    assert order.index("r0") < order.index("r1") < order.index("r2") < order.index("first")
    assert order.index("r1") < order.index("r3") < order.index("r4") < order.index("second")
