from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from swapnet.builder.importing.inputs import InputType, inputs_of
from swapnet.builder.importing.source import open_source
from swapnet.errors import ModelError
from tests.helpers.zoo import TOYS, Net


def _inputs(path: Path) -> tuple[InputType, ...]:
    return inputs_of(open_source(path).proto.graph)


def test_inputs_of_a_model(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    toy = TOYS["dynamic"]
    toy.save(toy.make(), path)
    assert _inputs(path) == (
        InputType("x", "float32", ("batch", "length", 64)),
        InputType("mask", "int64", ("batch", "length")),
    )


def test_initialisers_are_no_inputs(tmp_path: Path) -> None:
    toy = TOYS["listed-as-inputs"]
    toy.save(toy.make(), tmp_path / "model.onnx")
    assert [taken.name for taken in _inputs(tmp_path / "model.onnx")] == ["x"]


def _saved(path: Path, value: onnx.ValueInfoProto) -> Path:
    net = Net()
    net.input("other", (1,))
    net.output(net("Relu", "other"))
    net.inputs.append(value)
    onnx.save_model(net.model(), path)
    return path


def test_dimensions_without_a_name_are_symbolic(tmp_path: Path) -> None:
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 3, -1])
    (_, taken) = _inputs(_saved(tmp_path / "model.onnx", value))
    assert taken == InputType("x", "float32", ("x.0", 3, "x.2"))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (helper.make_tensor_value_info("x", TensorProto.STRING, [1]), "tensor_type of .* 8;"),
        (helper.make_tensor_value_info("x", TensorProto.FLOAT, None), "of unknown rank"),
        (helper.make_tensor_sequence_value_info("x", TensorProto.FLOAT, [1]), "a sequence_type"),
    ],
)
def test_inputs_that_can_not_be_given(
    tmp_path: Path, value: onnx.ValueInfoProto, message: str
) -> None:
    with pytest.raises(ModelError, match=f"input 'x' can't be given\n.*{message}"):
        _inputs(_saved(tmp_path / "model.onnx", value))
