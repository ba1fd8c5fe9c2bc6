from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

import swapnet.builder.rewriting.optimise
from swapnet.builder.importing.constants import INLINE_BELOW_BYTES
from swapnet.builder.importing.graph import Graph
from swapnet.builder.importing.sessions import open_session, quiet_options
from swapnet.builder.importing.source import open_source
from swapnet.builder.rewriting.optimise import TYPES, WHOLE, Operators, optimise
from swapnet.errors import ModelError
from swapnet.executor.backends.windows import packs_bits
from tests.helpers.zoo import TOYS, Net


def imported(
    model: onnx.ModelProto, folder: Path, *, operators: Operators = Operators.PORTABLE
) -> Graph:
    onnx.save(model, folder / "toy.onnx")
    return optimise(open_source(folder / "toy.onnx"), folder, operators=operators)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="layouts of x86-64")
def test_layouts_are_in_the_weights_unless_portable(tmp_path: Path) -> None:
    model = TOYS["images"].make()
    domains = {
        operators: {node.domain for node in imported(model, tmp_path, operators=operators).nodes}
        for operators in Operators
    }
    assert "com.microsoft.nchwc" in domains[Operators.HARDWARE]
    assert "com.microsoft.nchwc" not in domains[Operators.PORTABLE]
    assert domains[Operators.STANDARD] == {""}


def test_small_and_shape_carrying_constants_stay_inline(tmp_path: Path) -> None:
    net = Net()
    value = net("Add", net.dense(net.input("x", (2, 512)), 512, 16), net.weight(16))
    target = net.constant(np.ones(INLINE_BELOW_BYTES, np.int64))
    net.output(net("Expand", net("Reshape", value, net.constant(np.array([32]))), target))
    graph = imported(net.model(), tmp_path)
    assert [constant.shape for constant in graph.constants.values()] == [(512, 16)]
    assert target in graph.inline


@pytest.mark.parametrize("operators", Operators)
@pytest.mark.parametrize("name", ["half", "tied-matmul"])
def test_folding_never_doubles_a_weight(tmp_path: Path, name: str, operators: Operators) -> None:
    graph = imported(TOYS[name].make(), tmp_path, operators=operators)
    source = open_source(tmp_path / "toy.onnx")
    stored = sum(constant.nbytes for constant in graph.constants.values())
    assert stored <= 1.01 * source.weights_bytes


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_types_are_those_of_the_chosen_graph(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: type[np.floating[Any]]
) -> None:
    """Folding Neg stores as much, so that the folded graph stays; folding Cast stores more."""
    monkeypatch.setattr(swapnet.builder.rewriting.optimise, "STORED_LIMIT", 0)
    net = Net()
    weight = net.weight(64, 64, dtype=dtype)
    weight = net("Cast", weight, to=TensorProto.FLOAT) if dtype is np.float16 else weight
    net.output(net("MatMul", net.input("x", (2, 64)), net("Neg", weight)))
    graph = imported(net.model(), tmp_path)
    session = open_session(tmp_path / TYPES, quiet_options(optimise=False))
    assert {v.name for v in (*session.get_inputs(), *session.get_outputs())} == set(graph.values)
    assert len(graph.nodes) == (3 if dtype is np.float16 else 1)


@pytest.mark.parametrize("operators", Operators)
def test_the_whole_model_has_its_own_outputs(tmp_path: Path, operators: Operators) -> None:
    graph = imported(TOYS["half"].make(), tmp_path, operators=operators)
    session = open_session(tmp_path / WHOLE, quiet_options(optimise=False))
    assert [v.name for v in session.get_outputs()] == [v.name for v in graph.outputs]


def test_products_with_dequantised_weights_stay(tmp_path: Path) -> None:
    """ONNX Runtime would make them MatMulNBits: slow unpacked, larger, and less exact."""
    kinds = {node.op_type for node in imported(TOYS["dequantised-sliced"].make(), tmp_path).nodes}
    assert "MatMulNBits" not in kinds
    assert "DequantizeLinear" in kinds


@pytest.mark.parametrize(
    ("operators", "bits", "blocks"),
    [
        (Operators.HARDWARE, 8, True),
        (Operators.HARDWARE, 4, False),
        (Operators.HARDWARE, 8, False),
        (Operators.PORTABLE, 8, True),
        (Operators.STANDARD, 8, True),
    ],
)
def test_products_of_few_bits_are_fused_where_they_are_packed(
    tmp_path: Path, operators: Operators, bits: int, blocks: bool
) -> None:
    net = Net()
    weight = net.weight(256, 512 * bits // 8, dtype=np.int8)
    if bits == 4:
        net.weights[-1].data_type, net.weights[-1].dims[:] = TensorProto.INT4, [256, 512]
    attributes = {"axis": 0, "block_size": 32} if blocks else {"axis": 1}
    wide = net("DequantizeLinear", weight, net.scales(*[8] * blocks, 512), **attributes)
    net.output(net("MatMul", net.input("x", (2, 256)), wide))
    graph = imported(net.model(21, ir_version=10), tmp_path, operators=operators)
    few = (blocks or bits == 4) and operators is Operators.HARDWARE
    fused = few and packs_bits(onnxruntime.__version__)
    assert ("MatMulNBits" in {node.op_type for node in graph.nodes}) == fused
    assert sum(constant.nbytes for constant in graph.constants.values()) < 160 << 10


def test_unsorted_operators_are_sorted(tmp_path: Path) -> None:
    graph = imported(TOYS["unsorted"].make(), tmp_path)
    assert [node.op_type for node in graph.nodes] == ["MatMul", "Relu"] * 6


def test_types_of_all_values_are_known(tmp_path: Path) -> None:
    graph = imported(TOYS["integers"].make(), tmp_path)
    produced = {name for node in graph.nodes for name in node.output if name}
    assert produced <= graph.values.keys()
    assert graph.inputs[0].dtype == "uint8"
    assert {value.dtype for value in graph.values.values()} >= {"uint8", "int32", "float32"}


def test_an_unsupported_operator_is_named(tmp_path: Path) -> None:
    net = Net()
    net.output(net("Quicksort", net.input("x", (2,))))
    with pytest.raises(ModelError, match="ONNX Runtime refuses the model") as caught:
        imported(net.model(), tmp_path)
    assert "Quicksort" in caught.value.why
    assert "\n" not in caught.value.why


def test_texts_can_not_be_bound(tmp_path: Path) -> None:
    net = Net()
    net.output(net("Identity", net.input("words", (2,), TensorProto.STRING)))
    with pytest.raises(ModelError, match="'words' can't be bound") as caught:
        imported(net.model(), tmp_path)
    assert "string" in caught.value.why


def test_a_tensor_that_is_stored_as_numbers_is_read(tmp_path: Path) -> None:
    net = Net()
    weight = net.weight(16, 16)
    values = onnx.numpy_helper.to_array(net.weights[0])
    net.weights[0] = helper.make_tensor(weight, TensorProto.FLOAT, (16, 16), values.reshape(-1))
    net.output(net("MatMul", net.input("x", (2, 16)), weight))
    (constant,) = imported(net.model(), tmp_path).constants.values()
    assert constant.bytes().tobytes() == values.tobytes()
