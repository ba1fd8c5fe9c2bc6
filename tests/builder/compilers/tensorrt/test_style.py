"""Which weights may be inputs: the rule, and the real library's word on each line of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from swapnet.builder import build, stages
from swapnet.builder.compilers.base import Piece, WeightStyle
from swapnet.builder.compilers.tensorrt.engine import compile_engine
from swapnet.builder.compilers.tensorrt.job import Job
from swapnet.builder.compilers.tensorrt.style import (
    EXTERNAL_INPUTS,
    choose_styles,
    measure_styles,
    refused_operator,
)
from swapnet.builder.cutting.partition import partition
from swapnet.builder.importing.graph import Graph
from swapnet.builder.rewriting.optimise import Operators
from swapnet.builder.writing.blocks import with_owners
from swapnet.errors import BackendError, ModelError
from swapnet.manifest import load_manifest
from tests.helpers.zoo import TOYS, Net

Import = Callable[..., Graph]
Shape = tuple[int, ...]

TIMES = {"external": (1.0, 4.0), "embedded": (2.0, 3.0)}


class Given:
    """An input that is given, a constant, or what may be either: a weight."""

    def __init__(self, kind: str, shape: Shape = (), dtype: Any = np.float32, value: Any = None):
        self.kind = kind
        self.array: NDArray[Any] = np.ones(shape, dtype) if value is None else np.array(value)


def x(*shape: int, dtype: Any = np.float32) -> Given:
    return Given("input", shape, dtype)


def w(*shape: int, dtype: Any = np.float32) -> Given:
    return Given("weight", shape, dtype)


def c(value: Any) -> Given:
    return Given("constant", value=value)


IMAGE, I64, I8 = (1, 64, 8, 8), np.int64, np.int8
NONE = Given("none")
CASES: list[tuple[str, list[Given], dict[str, Any]]] = [
    ("Conv", [x(*IMAGE), w(64, 64, 3, 3), w(64)], {}),
    ("Conv", [x(*IMAGE), w(64, 1, 3, 3), w(64)], {"group": 64}),
    ("Conv", [w(*IMAGE), x(64, 64, 3, 3)], {}),
    ("Conv", [x(1, 64, 9), w(64, 64, 3), w(64)], {}),
    ("ConvTranspose", [x(*IMAGE), w(64, 64, 2, 2), w(64)], {"strides": [2, 2]}),
    ("ConvTranspose", [w(*IMAGE), x(64, 64, 2, 2)], {}),
    ("Gemm", [x(4, 64), w(64, 64), w(64)], {"transB": 1}),
    ("Gemm", [w(4, 64), x(64, 64)], {}),
    ("MatMul", [x(4, 64), w(64, 64)], {}),
    ("MatMul", [w(4, 64), x(64, 64)], {}),
    ("Einsum", [x(4, 64), w(64, 64)], {"equation": "ij,jk->ik"}),
    *(
        (kind, [x(*IMAGE), w(64, 1, 1)], {})
        for kind in ("Add", "Sub", "Mul", "Div", "Pow", "Max", "Min", "Sum", "Mean", "PRelu")
    ),
    ("Mod", [x(*IMAGE), w(64, 1, 1)], {"fmod": 1}),
    *(
        (kind, [x(*IMAGE), w(64, 1, 1)], {})
        for kind in ("Greater", "Less", "Equal", "GreaterOrEqual", "LessOrEqual")
    ),
    *(
        (kind, [x(*IMAGE, dtype=np.bool_), w(64, 1, 1, dtype=np.bool_)], {})
        for kind in ("And", "Or", "Xor")
    ),
    ("Where", [w(64, 1, 1, dtype=np.bool_), x(*IMAGE), w(64, 1, 1)], {}),
    ("Clip", [x(*IMAGE), w(), w()], {}),
    ("Gather", [w(100, 8), x(4, dtype=I64)], {}),
    ("Gather", [x(100, 8), w(40, dtype=I64)], {}),
    ("GatherND", [w(100, 8), x(4, 1, dtype=I64)], {}),
    ("GatherND", [x(100, 8), w(40, 1, dtype=I64)], {}),
    ("GatherElements", [w(100, 8), w(4, 8, dtype=I64)], {}),
    ("ScatterND", [w(100, 8), w(4, 1, dtype=I64), w(4, 8)], {}),
    ("ScatterElements", [w(100, 8), w(4, 8, dtype=I64), w(4, 8)], {}),
    ("LayerNormalization", [x(4, 64), w(64), w(64)], {"axis": -1}),
    ("GroupNormalization", [x(*IMAGE), w(8), w(8)], {"num_groups": 8}),
    ("InstanceNormalization", [x(*IMAGE), w(64), w(64)], {}),
    ("RMSNormalization", [x(4, 64), w(64)], {"axis": -1}),
    ("BatchNormalization", [x(*IMAGE), w(64), w(64), w(64), w(64)], {}),
    (
        "LSTM",
        [x(5, 1, 8), w(1, 32, 8), w(1, 32, 8), w(1, 64), NONE, w(1, 1, 8), w(1, 1, 8), w(1, 24)],
        {"hidden_size": 8},
    ),
    ("GRU", [x(5, 1, 8), w(1, 24, 8), w(1, 24, 8), w(1, 48), NONE, w(1, 1, 8)], {"hidden_size": 8}),
    ("RNN", [x(5, 1, 8), w(1, 8, 8), w(1, 8, 8), w(1, 16), NONE, w(1, 1, 8)], {"hidden_size": 8}),
    ("DequantizeLinear", [w(64, 64, dtype=I8), c(np.float32(1)), c(I8(0))], {}),
    ("QuantizeLinear", [w(64, 64), c(np.float32(1)), c(I8(0))], {}),
    ("Concat", [x(4, 64), w(4, 64)], {"axis": 1}),
    ("GridSample", [x(*IMAGE), w(1, 4, 4, 2)], {}),
    ("GridSample", [w(*IMAGE), x(1, 4, 4, 2)], {}),
    ("RotaryEmbedding", [x(1, 4, 8, 64), w(8, 32), w(8, 32), x(1, 8, dtype=I64)], {}),
    ("Transpose", [w(64, 32)], {"perm": [1, 0]}),
    ("Reshape", [w(64, 32), c([2048])], {}),
    ("Cast", [w(64, 32, dtype=np.float16)], {"to": TensorProto.FLOAT}),
    ("Identity", [w(64, 32)], {}),
    ("Slice", [w(64, 32), c([0]), c([10]), c([0])], {}),
    ("Split", [w(64, 32)], {"num_outputs": 2}),
    ("Expand", [w(1, 32), c([64, 32])], {}),
    ("Tile", [w(1, 32), c([64, 1])], {}),
    ("Pad", [w(1, 32), c([0, 1, 0, 1])], {}),
    ("Unsqueeze", [w(64, 32), c([0])], {}),
    ("Squeeze", [w(1, 32), c([0])], {}),
    *(
        (kind, [w(8, 64)], {})
        for kind in ("Flatten", "ReduceSum", "ReduceMean", "ReduceMax", "Softmax", "Relu", "Neg")
    ),
    *((kind, [w(8, 64)], {}) for kind in ("Abs", "Exp", "Log", "Sqrt", "Tanh", "Sigmoid", "Erf")),
]
REFUSED: list[tuple[str, list[Given], dict[str, Any]]] = [
    ("DequantizeLinear", [x(64, 64, dtype=I8), c(np.ones(64, np.float32)), w(64, dtype=I8)], {}),
    ("QuantizeLinear", [x(64, 64), c(np.ones(64, np.float32)), w(64, dtype=I8)], {}),
]


def save(
    kind: str, given: list[Given], attributes: dict[str, Any], weights: set[int], path: Path
) -> None:
    """A model of one operator, whose weights at these positions are inputs."""
    inputs, constants, names = [], [], []
    for position, item in enumerate(given):
        names.append("" if item is NONE else f"{item.kind}{position}")
        if item.kind == "input" or position in weights:
            dtype = helper.np_dtype_to_tensor_dtype(item.array.dtype)
            inputs.append(helper.make_tensor_value_info(names[-1], dtype, item.array.shape))
        elif item is not NONE:
            constants.append(numpy_helper.from_array(item.array, names[-1]))
    outputs = ["y", "z"][: attributes.get("num_outputs", 1)]
    node = helper.make_node(kind, names, outputs, **attributes)
    infos = [helper.make_empty_tensor_value_info(name) for name in outputs]
    opset = 23 if kind in ("RMSNormalization", "RotaryEmbedding") else 18
    model = helper.make_model(
        helper.make_graph([node], "one", inputs, infos, constants),
        opset_imports=[helper.make_opsetid("", opset)],
        ir_version=9,
    )
    model = onnx.shape_inference.infer_shapes(model)
    for output in model.graph.output:
        if not output.type.tensor_type.elem_type:  # ONNX infers none for GroupNormalization
            output.type.tensor_type.elem_type = TensorProto.FLOAT
    onnx.save(model, path)


def compile_model(path: Path) -> None:
    plan = path.with_suffix(".plan")
    compile_engine(
        Job("tensorrt-rtx", "block", str(path), str(plan), True, {}, None), lambda *_: None
    )
    assert plan.stat().st_size


def label(case: tuple[str, list[Given], dict[str, Any]]) -> str:
    return f"{case[0]}-{CASES.index(case) if case in CASES else 'refused'}"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    pytest.importorskip("tensorrt_rtx_bindings")
    return tmp_path / "one.onnx"


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=label)
def test_inputs_of_the_rule_are_taken(model: Path, case: Any) -> None:
    kind, given, attributes = case
    weights = [position for position, item in enumerate(given) if item.kind == "weight"]
    assert set(weights) <= set(EXTERNAL_INPUTS[kind])
    for chosen in [*({position} for position in weights[1:]), set(weights)]:
        save(kind, given, attributes, chosen, model)
        compile_model(model)


@pytest.mark.parametrize("case", REFUSED, ids=label)
def test_inputs_beyond_the_rule_are_not(model: Path, case: Any) -> None:
    kind, given, attributes = case
    assert 2 not in EXTERNAL_INPUTS[kind]
    save(kind, given, attributes, {2}, model)
    with pytest.raises(ModelError) as caught:
        compile_model(model)
    assert "zero_point" in caught.value.why


def test_every_line_of_the_rule_was_tried() -> None:
    assert {kind for kind, _, _ in CASES} == set(EXTERNAL_INPUTS)


def pieces(import_model: Import, net: Net, limit: int = 1 << 20) -> tuple[Piece, ...]:
    graph = import_model(net.model(), None, Operators.STANDARD)
    return with_owners(graph, partition(graph, limit)).pieces


def test_what_the_rule_knows_is_external(import_model: Import) -> None:
    net = Net()
    net.output(net.dense(net("Relu", net.dense(net.input("x", (2, 64)), 64, 64)), 64, 64))
    found = pieces(import_model, net, 16 << 10)
    assert choose_styles(found) == choose_styles(found, "external") == ("external",) * 2
    assert choose_styles(found, "embedded") == ("embedded",) * 2
    assert refused_operator(found[0]) is None


def test_what_was_measured_decides(import_model: Import) -> None:
    net = Net()
    net.output(net.dense(net("Relu", net.dense(net.input("x", (2, 64)), 64, 64)), 64, 64))
    found = pieces(import_model, net, 16 << 10)
    measured: dict[int, dict[WeightStyle, float]] = {1: {"external": 2.0, "embedded": 1.0}}
    assert choose_styles(found, measured_ms=measured) == ("external", "embedded")
    assert choose_styles(found, "external", measured) == ("external",) * 2


def test_unknown_operators_embed(import_model: Import) -> None:
    net = Net()
    sums = net("CumSum", net.weight(8, 64), net("Cast", net.input("i", ()), to=TensorProto.INT64))
    net.output(net("Add", net.input("x", (8, 64)), sums))
    (piece,) = pieces(import_model, net)
    refused = refused_operator(piece)
    assert refused is not None
    assert refused.op_type == "CumSum"
    assert choose_styles([piece]) == ("embedded",)
    assert choose_styles([piece], "external") == ("external",)


def test_weights_are_followed_through_operators_and_into_bodies(import_model: Import) -> None:
    net = Net()
    x, axis = net.input("x", (8, 64)), net.constant(np.array(0))
    weight = net("DequantizeLinear", net.weight(8, 512, dtype=I8), net.scales(), axis=0)
    then, otherwise = Net(prefix="then/"), Net(prefix="else/")
    then.output(then("CumSum", weight, axis))
    otherwise.output(otherwise("Neg", weight))
    condition = net(
        "Greater", net("ReduceSum", x, keepdims=0), net.constant(np.array(0, np.float32))
    )
    branches = {"then_branch": then.body("then"), "else_branch": otherwise.body("otherwise")}
    net.output(net("If", condition, **branches))
    refused = [refused_operator(piece) for piece in pieces(import_model, net)]
    assert [node.op_type for node in refused if node is not None] == ["CumSum"]


def test_nothing_to_embed_is_external(import_model: Import) -> None:
    net = Net()
    net.output(net("Relu", net.input("x", (2, 64))))
    assert choose_styles(pieces(import_model, net), "embedded") == ("external",)


def test_both_styles_are_built_and_run(tmp_path: Path) -> None:
    built: list[tuple[str, Path]] = []

    def make(style: WeightStyle, folder: Path) -> None:
        built.append((style, folder))

    measured = measure_styles(make, tmp_path, lambda folder: TIMES[folder.name])
    assert built == [(style, tmp_path / style) for style in TIMES]
    assert measured == {
        0: {"external": 1.0, "embedded": 2.0},
        1: {"external": 4.0, "embedded": 3.0},
    }


@pytest.mark.parametrize("failing", ["build", "run"])
def test_a_style_that_does_not_work_leaves_it_to_the_rule(tmp_path: Path, failing: str) -> None:
    def make(style: WeightStyle, _: Path) -> None:
        if failing == "build" and style == "external":
            raise ModelError("weights can't be inputs")

    def swaps(_: Path) -> tuple[float, ...]:
        raise BackendError("does not run")

    assert measure_styles(make, tmp_path, swaps) == {}


@pytest.mark.slow
def test_the_faster_style_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the real builder, as if there were a GPU: blocks in turn faster in one and the other.

    The model is optimised once for all three engines.
    """
    toy = TOYS["transformer"]
    toy.save(toy.make(), tmp_path / "toy.onnx")
    calls: list[str] = []
    told: list[str] = []

    def swaps(folder: Path) -> tuple[float, ...]:
        blocks = load_manifest(folder).blocks
        calls.append(folder.name)
        fast = 0 if folder.name == "external" else 1
        return tuple(1.0 if block.index % 2 == fast else 2.0 for block in blocks)

    monkeypatch.setattr(stages, "can_run", lambda _: True)
    monkeypatch.setattr(
        stages, "measure_styles", lambda make, work: measure_styles(make, work, swaps)
    )
    manifest = build(
        tmp_path / "toy.onnx",
        tmp_path / "engine",
        backend="tensorrt-rtx",
        max_block=toy.max_block,
        shapes=toy.shapes,
        progress=lambda stage, *_: told.append(stage),
    )
    assert (told.count("optimise"), told.count("measure")) == (1, 3)
    styles = [b.weight_style for b in manifest.blocks if b.is_graph and b.extent.nbytes]
    assert len(styles) > 1
    assert calls == ["external", "embedded"]
    assert styles == [
        "embedded" if b.index % 2 else "external"
        for b in manifest.blocks
        if b.is_graph and b.extent.nbytes
    ]
    assert not list(tmp_path.glob(".engine*"))
