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
from onnx import helper

from swapnet.builder.graph import Constant, Graph
from swapnet.builder.slicing import slice_operators
from tests.helpers.zoo import TOYS, Net

LIMIT = 16 << 10
Import = Callable[..., Graph]


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


def test_a_single_slice_is_none(import_model: Import) -> None:
    net = Net()
    net.output(net("Conv", net.input("x", (1, 16, 4, 4)), net.weight(16, 16, 3, 3)))
    graph = import_model(net.model())
    for node in graph.nodes:
        node.domain = "com.microsoft.nchwc"
    whole = slice_operators(graph, 4096)
    assert list(whole.nodes) == list(graph.nodes)
    assert not whole.sliced


def test_new_names_are_new(import_model: Import) -> None:
    net = Net()
    x, weight = net.input("x", (2, 128)), net.weight(128, 64)
    taken = f"{weight}/y/1"
    net.nodes += [
        helper.make_node("MatMul", [x, weight], ["y"]),
        helper.make_node("Relu", ["y"], ["y/0"]),
        helper.make_node("MatMul", ["y/0", net.weight(64, 64)], [taken]),
    ]
    net.output("y", taken)
    sliced = slice_operators(import_model(net.model()), LIMIT)
    written = [name for node in sliced.nodes for name in node.output]
    assert "y/0.0" in written
    assert f"{taken}.0" in sliced.constants
    assert len({*written, *sliced.constants, *sliced.inline}) == len(written) + len(
        sliced.constants
    ) + len(sliced.inline)


@pytest.mark.parametrize(
    ("columns", "splits"), [(256, 1), ("n", 1), (1, 0), pytest.param("one", None, id="may be one")]
)
def test_a_bias_is_cut_at_its_planned_shape(
    import_model: Import, columns: int | str, splits: int | None
) -> None:
    net = Net()
    x, bias = net.input("x", (2, 64)), net.input("bias", (2, columns))
    net.output(net("Gemm", x, net.weight(64, 256), bias))
    width = {"n": 256, "one": 1}.get(str(columns), columns)
    assert isinstance(width, int)
    graph = import_model(net.model(), {"bias": (2, width)})
    sliced = slice_operators(graph, LIMIT)
    assert bool(sliced.sliced) == (splits is not None)
    assert kinds(sliced)["Split"] == (splits or 0)


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
