from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from swapnet.builder.graph import Constant, Graph
from swapnet.builder.slicing import slice_operators
from tests.helpers.zoo import TOYS, Net

LIMIT = 16 << 10
Import = Callable[[onnx.ModelProto], Graph]


def kinds(graph: Graph) -> Counter[str]:
    return Counter(node.op_type for node in graph.nodes)


def largest(graph: Graph) -> int:
    return max(sum(graph.constants[n].nbytes for n in names) for names in graph.weights_of.values())


def gemm(channels: int) -> onnx.ModelProto:
    net = Net()
    net.output(net("Gemm", net.input("x", (2, 64)), net.weight(64, channels)))
    return net.model()


@pytest.mark.parametrize("opset", [7, 21])
def test_slices_keep_the_limit(import_model: Import, opset: int) -> None:
    graph = import_model(TOYS[f"wide-opset-{opset}"].make())
    sliced = slice_operators(graph, LIMIT)
    assert largest(graph) > 3 * LIMIT
    assert largest(sliced) <= LIMIT
    assert kinds(sliced)["Concat"] == kinds(sliced)["Split"] + 3
    stored = sum(constant.nbytes for constant in graph.constants.values())
    assert sum(constant.nbytes for constant in sliced.constants.values()) == stored


def test_nothing_changes_within_the_limit(import_model: Import) -> None:
    graph = import_model(TOYS["wide-opset-21"].make())
    assert list(slice_operators(graph, 1 << 20).nodes) == list(graph.nodes)


@settings(
    max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(channels=st.integers(1, 700), limit=st.integers(300, 40000))
def test_slices_partition_the_channels(channels: int, limit: int, import_model: Import) -> None:
    graph = _gemm_graph(import_model, channels)
    parts = [c for c in slice_operators(graph, limit).constants.values() if c.axis == 1]
    if not parts:
        assert channels * 64 * 4 <= limit or channels == 1
        return
    assert parts[0].start == 0
    assert parts[-1].stop == channels
    assert all(before.stop == after.start for before, after in pairwise(parts))
    assert all(part.shape[1] == 1 or part.nbytes <= limit for part in parts)


_GEMM: list[Graph] = []


def _gemm_graph(import_model: Import, channels: int) -> Graph:
    """The same operator with other weights: importing takes longer than slicing."""
    if not _GEMM:
        _GEMM.append(import_model(gemm(8)))
    graph = _GEMM[0]
    (name,) = graph.constants
    shape = (64, channels)
    data = np.zeros(64 * channels * 4, np.uint8)
    return replace(graph, constants={name: Constant(name, "float32", shape, data)})


def test_blocked_convolutions_end_at_whole_blocks(import_model: Import) -> None:
    net = Net()
    net.output(net("Conv", net.input("x", (1, 16, 4, 4)), net.weight(48, 16, 3, 3)))
    graph = import_model(net.model())
    for node in graph.nodes:
        node.domain = "com.microsoft.nchwc"
    parts = slice_operators(graph, 4096).constants.values()
    assert [part.shape[0] for part in parts] == [16, 16, 16]


def test_what_would_be_stored_twice_stays_whole(import_model: Import) -> None:
    net = Net()
    value, weight = net.input("x", (2, 128)), net.weight(128, 128)
    net.output(net("MatMul", net("Relu", net("MatMul", value, weight)), weight))
    graph = import_model(net.model())
    assert list(slice_operators(graph, LIMIT).nodes) == list(graph.nodes)


def test_grouped_convolutions_stay_whole(import_model: Import) -> None:
    net = Net()
    kernel = net.weight(64, 32, 3, 3)
    net.output(net("Conv", net.input("x", (1, 64, 4, 4)), kernel, group=2))
    graph = import_model(net.model())
    assert kinds(slice_operators(graph, LIMIT)) == kinds(graph)
