"""Models that ONNX Runtime refuses: what it says, without its source, and what to do about it."""

from __future__ import annotations

from collections.abc import Callable

import onnx
import pytest
from onnx import TensorProto, helper

from swapnet.builder.importing.sessions import open_session, quiet_options
from swapnet.errors import ModelError
from tests.helpers.zoo import mlp


def newer_ir(model: onnx.ModelProto) -> None:
    model.ir_version = 99


def no_ir(model: onnx.ModelProto) -> None:
    model.ClearField("ir_version")


def no_opset(model: onnx.ModelProto) -> None:
    del model.opset_import[:]


def newer_set_of_another_domain(model: onnx.ModelProto) -> None:
    model.opset_import.append(helper.make_opsetid("ai.onnx.ml", 99))


def equal_names(model: onnx.ModelProto) -> None:
    for node in model.graph.node:
        node.name = "same"


def equal_outputs(model: onnx.ModelProto) -> None:
    model.graph.node[0].output[0] = model.graph.node[1].output[0]


def custom_operator(model: onnx.ModelProto) -> None:
    model.graph.node[0].op_type, model.graph.node[0].domain = "Sort", "com.acme"
    model.opset_import.append(helper.make_opsetid("com.acme", 1))


def domain_without_import(model: onnx.ModelProto) -> None:
    model.graph.node[0].domain = "com.acme"


def unknown_operator(model: onnx.ModelProto) -> None:
    model.graph.node[0].op_type = "Quicksort"


def unknown_input(model: onnx.ModelProto) -> None:
    model.graph.node[0].input.append("none")


def circle(model: onnx.ModelProto) -> None:
    model.graph.node[0].input[0] = model.graph.node[-1].output[0]


def other_type(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.DOUBLE


@pytest.mark.parametrize(
    ("spoil", "hint"),
    [
        (newer_ir, "model.ir_version = "),
        (no_ir, "set model.ir_version"),
        (no_opset, "model.opset_import.append"),
        (newer_set_of_another_domain, " of ai.onnx.ml or an older one"),
        (equal_names, "named 'same'"),
        (equal_outputs, "rename one of the values"),
        (custom_operator, "does not have the operator com.acme:Sort"),
        (domain_without_import, "add com.acme to model.opset_import"),
        (unknown_operator, "does not have Quicksort"),
        (unknown_input, "onnx.checker.check_model"),
        (circle, "onnx.checker.check_model"),
        (other_type, "onnx.checker.check_model"),
    ],
)
def test_the_hint_is_for_the_cause(spoil: Callable[[onnx.ModelProto], None], hint: str) -> None:
    model = mlp(layers=2)
    spoil(model)
    with pytest.raises(ModelError, match="ONNX Runtime refuses the model") as caught:
        open_session(model.SerializeToString(), quiet_options())
    assert hint in caught.value.hint
    assert "onnxruntime::" not in caught.value.why
    assert "onnxruntime_src" not in caught.value.why


def test_another_refusal_names_the_operator() -> None:
    values = [helper.make_tensor_value_info(name, TensorProto.INT16, [2]) for name in "xy"]
    nodes = [helper.make_node("Max", ["x", "x"], ["y"])]
    graph = helper.make_graph(nodes, "largest", values[:1], values[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    with pytest.raises(ModelError) as caught:
        open_session(model.SerializeToString(), quiet_options())
    assert "change or replace the operator" in caught.value.hint
