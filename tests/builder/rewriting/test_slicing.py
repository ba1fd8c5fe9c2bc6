from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import helper

from swapnet.builder.importing.graph import Constant, Graph
from swapnet.builder.rewriting.slicing import slice_operators
from tests.helpers.zoo import TOYS, Net

LIMIT = 16 << 10
INTEGERS = {"ConvInteger", "MatMulInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul"}
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
    net.output(net("Gemm", net("Relu", net("MatMul", value, weight)), weight, transB=1))
    graph = import_model(net.model())
    assert list(slice_operators(graph, LIMIT).nodes) == list(graph.nodes)


def test_operators_that_share_a_weight_share_its_slices(import_model: Import) -> None:
    net = Net()
    value, weight = net.input("x", (2, 128)), net.weight(128, 128)
    net.output(net("MatMul", net("Relu", net("MatMul", value, weight)), weight))
    sliced = slice_operators(import_model(net.model()), LIMIT)
    assert kinds(sliced) == {"MatMul": 8, "Concat": 2, "Relu": 1}
    assert len(sliced.constants) == 4
    assert {len(sliced.readers[name]) for name in sliced.constants} == {2}


@pytest.mark.parametrize(
    ("toy", "limit", "split"),
    [
        ("grouped-sliced", LIMIT, {"FusedConv", "ConvTranspose", "Split"}),
        ("integers-sliced", LIMIT, INTEGERS),
        ("quantised-sliced", LIMIT, {"QLinearConv", "QLinearMatMul", "QGemm", "Split"}),
        ("dequantised-sliced", LIMIT, {"Conv", "MatMul", "Gemm", "DequantizeLinear"}),
        ("packing-bits", 64 << 10, {"MatMulNBits"}),
        ("half-sliced", LIMIT // 2, {"Cast", "MatMul"}),
        ("bfloat16-sliced", LIMIT // 4, {"Cast", "MatMul"}),
    ],
)
def test_every_kind_is_split(import_model: Import, toy: str, limit: int, split: set[str]) -> None:
    graph = import_model(TOYS[toy].make())
    sliced = slice_operators(graph, limit)
    assert {*(kinds(sliced) - kinds(graph))} >= {*split, "Concat"}
    assert largest(sliced) <= limit
    stored = sum(constant.nbytes for constant in graph.constants.values())
    assert sum(constant.nbytes for constant in sliced.constants.values()) == stored


def convolution(*shape: int, group: int) -> onnx.ModelProto:
    net = Net()
    value = net.input("x", (1, shape[1] * group, 4, 4))
    net.output(net("Conv", value, net.weight(*shape), group=group))
    return net.model()


@pytest.mark.parametrize(
    ("channels", "beside", "parts"),
    [
        (256, 400, [128, 128]),  # narrower parts would gather the same pixels once more
        (64, 400, [64]),
        (256, 1, [32] * 8),  # down to an eighth of all weights
    ],
)
def test_parts_that_cost_time_are_wide(
    import_model: Import, channels: int, beside: int, parts: list[int]
) -> None:
    net = Net()
    convolved = net("Conv", net.input("x", (1, 8, 4, 4)), net.weight(channels, 8, 3, 3))
    net.output(convolved, net("MatMul", net.input("y", (1, 200)), net.weight(200, beside)))
    graph = import_model(net.model())
    sliced = slice_operators(graph, 4096, by_cost=True)
    found = [node.input[1] for node in sliced.nodes if node.op_type == "Conv"]
    assert [sliced.constants[name].shape[0] for name in found] == parts
    assert kinds(slice_operators(graph, 4096))["Conv"] > len(parts)


def test_groups_stay_whole(import_model: Import) -> None:
    sliced = slice_operators(import_model(convolution(48, 8, 3, 3, group=3)), 4096)
    parts = [node for node in sliced.nodes if node.op_type == "Conv"]
    assert [sliced.constants[part.input[1]].shape[0] for part in parts] == [16, 16, 16]
    assert [sliced.values[part.input[0]].planned[1] for part in parts] == [8, 8, 8]
    assert {a.i for part in parts for a in part.attribute if a.name == "group"} == {1}


@pytest.mark.parametrize(("shape", "group"), [((64, 8, 3, 3), 8), ((64, 32, 3, 3), 2)])
def test_blocked_groups_end_at_whole_blocks(
    import_model: Import, shape: tuple[int, ...], group: int
) -> None:
    graph = import_model(convolution(*shape, group=group))
    for node in graph.nodes:
        node.domain = "com.microsoft.nchwc"
    sliced = slice_operators(graph, 2048)
    for node in sliced.nodes:
        if node.op_type == "Conv":
            assert sliced.constants[node.input[1]].shape[0] % 16 == 0
            assert sliced.values[node.input[0]].planned[1] % 16 == 0


def dequantised(axis: int, *scales: int, opset: int = 21, **attributes: int) -> onnx.ModelProto:
    """A product with a weight of 64 KiB behind DequantizeLinear."""
    net = Net()
    weight = net.weight(128, 512, dtype=np.int8), net.scales(*scales)
    wide = net("DequantizeLinear", *weight, axis=axis, **attributes)
    net.output(net("MatMul", net.input("x", (2, 128)), wide))
    return net.model(opset, ir_version=10)


@pytest.mark.parametrize(
    ("model", "scale"),
    [
        (dequantised(0, 4, 512, block_size=32), (4, 128)),
        (dequantised(1, 128, 4, block_size=128), None),
        (dequantised(-1, 512), (128,)),
        (dequantised(0, 128), (128,)),
        (dequantised(1, 1), (1,)),
    ],
)
def test_scales_are_cut_with_what_they_scale(
    import_model: Import, model: onnx.ModelProto, scale: tuple[int, ...] | None
) -> None:
    sliced = slice_operators(import_model(model), LIMIT + 2048)
    scales = {sliced.shapes(n.input[1])[1] for n in sliced.nodes if n.op_type == "DequantizeLinear"}
    assert bool(sliced.sliced) == (scale is not None)
    assert scale is None or scales == {scale}


def test_a_weight_that_is_widened_for_two_is_cut_for_both(import_model: Import) -> None:
    net = Net()
    wide = net("DequantizeLinear", net.weight(128, 256, dtype=np.int8), net.scales())
    value = net("MatMul", net.input("x", (2, 128)), wide)
    net.output(value, net("MatMul", net.input("y", (2, 128)), wide))
    sliced = slice_operators(import_model(net.model()), LIMIT)
    assert kinds(sliced) == {"DequantizeLinear": 4, "MatMul": 4, "Concat": 2}
    assert {len(sliced.readers[name]) for name in sliced.constants if "/" in name} == {2}


def recurrent(*absent: int, **attributes: Any) -> onnx.ModelProto:
    """An LSTM of 32 KiB for each direction; without some of its outputs."""
    net = Net()
    both = attributes.get("direction") == b"bidirectional"
    weights = [net.weight(1 + both, 128, 32) for _ in range(2)]
    names = [f"y{i}" for i in range(3)]
    node = helper.make_node(
        "LSTM",
        [net.input("x", (5, 1, 32)), *weights],
        ["" if i in absent else name for i, name in enumerate(names)],
        hidden_size=32,
        **attributes,
    )
    net.nodes.append(node)
    net.output(*(name for i, name in enumerate(names) if i not in absent))
    return net.model()


FUNCTIONS = ["Sigmoid", "Tanh", "Tanh", "HardSigmoid", "Relu", "Relu"]


@pytest.mark.parametrize("absent", [(), (0,), (1, 2)])
def test_directions_are_split(import_model: Import, absent: tuple[int, ...]) -> None:
    model = recurrent(*absent, direction=b"bidirectional", activations=FUNCTIONS)
    sliced = slice_operators(import_model(model), 2 * LIMIT)
    parts = [node for node in sliced.nodes if node.op_type == "LSTM"]
    attributes = [{a.name: helper.get_attribute_value(a) for a in node.attribute} for node in parts]
    assert [a["direction"] for a in attributes] == [b"forward", b"reverse"]
    functions = [name.decode() for a in attributes for name in a["activations"]]
    assert functions == FUNCTIONS
    assert kinds(sliced)["Concat"] == 3 - len(absent)
    assert largest(sliced) == 2 * LIMIT
    shapes = {sliced.values[name].shape for node in parts for name in node.output if name}
    assert shapes <= {(5, 1, 1, 32), (1, 1, 32)}


def test_outputs_that_nothing_reads_are_not_joined(import_model: Import) -> None:
    model = recurrent(direction=b"bidirectional")
    del model.graph.output[1:]
    sliced = slice_operators(import_model(model), 2 * LIMIT)
    assert kinds(sliced) == {"LSTM": 2, "Concat": 1}
    assert not {"y1", "y2"} & sliced.values.keys()


@pytest.mark.parametrize(
    "model",
    [
        recurrent(direction=b"reverse"),
        recurrent(direction=b"bidirectional", activation_alpha=[0.2, 0.2]),
    ],
)
def test_other_recurrent_operators_stay_whole(import_model: Import, model: onnx.ModelProto) -> None:
    graph = import_model(model)
    assert list(slice_operators(graph, LIMIT).nodes) == list(graph.nodes)
