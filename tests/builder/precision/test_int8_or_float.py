from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import pytest
from onnx import NodeProto, helper

from swapnet.builder.precision.int8_or_float import Form, measure_forms
from swapnet.builder.rewriting.operator_times import Candidate, time_alternatives

SHAPES = {
    "image": (1, 64, 6, 6),
    "rows": (4, 256),
    "wide": (1, 2048),
    "conv": (1, 64, 6, 6),
    "up": (1, 64, 11, 11),
    "product": (4, 512),
    "large": (1, 4096),
}
WEIGHTS = {
    "w3": (64, 64, 3, 3),
    "depthwise": (64, 1, 3, 3),
    "up": (64, 64, 3, 3),
    "matrix": (256, 512),
    "transposed": (512, 256),
    "large": (2048, 4096),
    "b64": (64,),
    "b512": (512,),
    "row512": (1, 512),
    "b4096": (4096,),
}


class Spy:
    """Says the times that it is told, and remembers what it was asked; each alternative runs."""

    def __init__(self, *times: float) -> None:
        self.times = times
        self.asked: list[list[list[str]]] = []
        self.candidates: list[Candidate] = []

    def __call__(self, alternatives: Sequence[Candidate]) -> Sequence[float]:
        assert all(np.isfinite(time_alternatives(alternatives, threads=1)))
        self.asked.append([[node.op_type for node in one.nodes] for one in alternatives])
        self.candidates += alternatives
        return self.times


def node(kind: str, *inputs: str, output: str = "", **attributes: Any) -> NodeProto:
    return helper.make_node(kind, inputs, [output or kind.lower()], **attributes)


def conv(weight: str = "w3", *, output: str = "conv", **attributes: Any) -> NodeProto:
    around: dict[str, Any] = {"pads": [1, 1, 1, 1], **attributes}
    return node("Conv", "image", weight, "b64", output=output, **around)


def measured(*nodes: NodeProto, spy: Spy) -> dict[str, Form]:
    return measure_forms(nodes, SHAPES, WEIGHTS, measure=spy)


@pytest.mark.parametrize(
    ("times", "choice"),
    [((1, 2), "int8"), ((2, 1), "weight-only"), ((1, 1), "int8"), ((1.2, 1), "weight-only")],
)
def test_the_faster_form_is_chosen(times: tuple[float, float], choice: str) -> None:
    assert Form(*times).choice == choice
    assert measured(conv(), spy=Spy(*times))["conv"] == Form(*times)


@pytest.mark.parametrize(
    ("operator", "integer", "wide"),
    [
        (conv(), {"QLinearConv", "QGemm"}, "DequantizeLinear"),
        (conv("depthwise", group=64), {"QLinearConv"}, "Conv"),
        (node("Gemm", "rows", "matrix", "b512", output="product"), {"QGemm"}, "DequantizeLinear"),
        (
            node("Gemm", "rows", "transposed", "row512", output="product", transB=1),
            {"QGemm", "Gemm"},
            "DequantizeLinear",
        ),
        (
            node("MatMul", "rows", "matrix", output="product"),
            {"MatMulIntegerToFloat"},
            "DequantizeLinear",
        ),
        (node("ConvTranspose", "image", "up", "b64", output="up"), {"ConvTranspose"}, "Cast"),
    ],
)
def test_both_forms_are_what_is_built(operator: NodeProto, integer: set[str], wide: str) -> None:
    spy = Spy(1.0, 2.0)
    assert list(measured(operator, spy=spy)) == list(operator.output)
    ((first, second),) = spy.asked
    assert integer & {*first}
    assert {"DequantizeLinear", "Cast", wide} & {*second}
    assert not {"QLinearConv", "QGemm", "QLinearMatMul", "MatMulNBits"} & {*second}
    assert "Transpose" not in (*first, *second)


def test_convolutions_read_and_give_integers_in_both() -> None:
    spy = Spy(1.0, 2.0)
    measured(conv(), spy=spy)
    for one in spy.candidates:
        assert "uint8" in [dtype for dtype, _ in one.inputs.values()]
    assert spy.asked[0][1].count("QuantizeLinear") == 1


def test_equal_operators_are_measured_once() -> None:
    spy = Spy(1.0, 2.0)
    shapes = SHAPES | {"other": (1, 64, 6, 6), "strided": (1, 64, 3, 3)}
    operators = [conv(), conv(output="other"), conv(output="strided", strides=[2, 2])]
    forms = measure_forms(operators, shapes, WEIGHTS, measure=spy)
    assert [*forms] == ["conv", "other", "strided"]
    assert forms["conv"] is forms["other"]
    assert len(spy.asked) == 2


def test_what_is_not_known_is_left_out() -> None:
    spy = Spy(1.0, 2.0)
    operators = [
        node("Conv", "elsewhere", "w3", output="conv"),
        node("Conv", "image", "no weight", output="conv"),
        node("Conv", "image", "w3", "computed", output="conv"),
        node("Conv", "image", "w3", output="nowhere"),
        node("Conv", "image", "matrix", output="conv"),
    ]
    assert measured(*operators, spy=spy) == {}
    assert not spy.asked


def test_a_large_product_is_measured_by_some_of_its_columns() -> None:
    spy = Spy(1.0, 2.0)
    operator = node("Gemm", "wide", "large", "b4096", output="large")
    assert measured(operator, spy=spy) == {"large": Form(4.0, 8.0)}
    shapes = [shape for one in spy.candidates for _, shape in one.inputs.values()]
    assert (2048, 1024) in shapes
    assert max(np.prod(shape) for shape in shapes) == 2048 * 1024


@pytest.mark.slow
def test_times_are_measured() -> None:
    measure = partial(time_alternatives, threads=1)
    (form,) = measure_forms([conv()], SHAPES, WEIGHTS, measure=measure).values()
    assert 0 < form.int8_ms < float("inf")
    assert 0 < form.weight_only_ms < float("inf")
