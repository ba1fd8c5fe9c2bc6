from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from swapnet.builder.importing.graph import Graph, used_names
from swapnet.builder.rewriting.late import compute_late
from tests.helpers.zoo import TOYS, Net

Import = Callable[..., Graph]


def test_large_values_are_computed_before_their_first_reader(import_model: Import) -> None:
    net = Net()
    x = net.input("x", (1, 4, 8, 8))
    small = net("Relu", x)
    scales = net.constant(np.array([1, 1, 4, 4], np.float32))
    large = net("Resize", small, "", scales)
    gate = net("Sigmoid", net("GlobalAveragePool", small))
    net.output(net("Mul", large, gate))
    graph = import_model(net.model())
    early = replace(graph, nodes=sorted(graph.nodes, key=lambda node: node.op_type != "Resize"))
    early = replace(early, nodes=sorted(early.nodes, key=lambda node: node.op_type != "Relu"))
    kinds = [node.op_type for node in compute_late(early).nodes]
    assert kinds.index("Resize") > kinds.index("GlobalAveragePool")


def test_small_values_that_replace_large_ones_are_computed_early(import_model: Import) -> None:
    net = Net()
    large = net("Relu", net("Neg", net.input("x", (1, 4, 8, 8))))
    pooled = net("MaxPool", large, kernel_shape=[4, 4], strides=[4, 4])
    net.output(net("Mul", pooled, net("Sigmoid", net("Tanh", net.input("y", (1, 4, 2, 2))))))
    kinds = [node.op_type for node in compute_late(import_model(net.model())).nodes]
    assert kinds.index("MaxPool") == kinds.index("Relu") + 1


@pytest.mark.parametrize("name", ["images-portable", "sequence", "ends"])
def test_each_value_is_computed_before_it_is_read(import_model: Import, name: str) -> None:
    graph = import_model(TOYS[name].make(), TOYS[name].shapes)
    late = compute_late(graph)
    known = {value.name for value in graph.inputs} | graph.constants.keys() | graph.inline.keys()
    for node in late.nodes:
        assert known.issuperset(used_names(node))
        known.update(node.output)
    assert len(late.nodes) == len(graph.nodes)
