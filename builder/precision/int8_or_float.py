"""Times of an operator on this processor: in int8, and in float32 from int8 weights."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any, Literal

import numpy as np
import onnx
from onnx import helper, numpy_helper

from swapnet.builder.importing.inferred import inferred_shapes
from swapnet.builder.importing.shapes import plan_shapes
from swapnet.builder.importing.source import open_source
from swapnet.builder.precision.selection import channel_axis, weighted
from swapnet.builder.rewriting.convolutions_as_products import Measure
from swapnet.builder.rewriting.narrowing import narrow_weights
from swapnet.builder.rewriting.operator_times import Candidate, candidate, time_alternatives
from swapnet.builder.rewriting.optimise import TYPES, Operators, optimise
from swapnet.errors import ModelError
from swapnet.files import working_folder
from swapnet.tensors import ONNX_TYPES

__all__ = ["Form", "measure_forms", "slower_in_int8"]

_PRODUCTS = ("Gemm", "MatMul")
_LARGEST_BYTES = 8 << 20
"""A product of more is measured by some of its columns: so it is sliced."""

_COLUMNS = 16
"""Columns are taken in multiples of this."""

_MARGIN = 1.1

_OPSET = 17
_IR_VERSION = 8
_SCALE = 0.02
_MIDDLE = 128


@dataclass(frozen=True)
class Form:
    """Times of an operator in either form, among neighbours that compute in int8.

    Convolutions read and write integers in both, so that float32 has to widen and round; products
    read and write floats in both, so that int8 has to round.

    Attributes
    ----------
    int8_ms
        With activations in 8 bits.
    weight_only_ms
        In float32, with weights that are stored as int8 and widened each time.
    """

    int8_ms: float
    weight_only_ms: float

    @property
    def choice(self) -> Literal["int8", "weight-only"]:
        """The faster one; int8, which reads no more bytes, unless it is slower by `_MARGIN`."""
        return "int8" if self.int8_ms < _MARGIN * self.weight_only_ms else "weight-only"


@dataclass(frozen=True)
class _Operator:
    """An operator with its sizes.

    Attributes
    ----------
    node
        Conv, ConvTranspose, Gemm or MatMul.
    source, output, weight
        Shapes.
    bias
        Shape; None where it has none.
    share
        Part of the columns that is measured.
    """

    node: onnx.NodeProto
    source: tuple[int, ...]
    output: tuple[int, ...]
    weight: tuple[int, ...]
    bias: tuple[int, ...] | None
    share: float = 1.0

    @property
    def key(self) -> tuple[object, ...]:
        """Operators of equal keys take equally long."""
        attributes = sorted(a.SerializeToString(deterministic=True) for a in self.node.attribute)
        return self.node.op_type, *attributes, self.source, self.weight, self.bias, self.share

    @property
    def is_product(self) -> bool:
        """Whether it reads and writes floats in either form."""
        return self.node.op_type in _PRODUCTS

    @property
    def axis(self) -> int | None:
        """Axis of output channels in the weight; None where one scale is for all."""
        return channel_axis(self.node, len(self.weight))


def measure_forms(
    nodes: Sequence[onnx.NodeProto],
    shapes: Mapping[str, tuple[int, ...]],
    weights: Mapping[str, tuple[int, ...]],
    *,
    measure: Measure = time_alternatives,
) -> dict[str, Form]:
    """Time operators in both forms, each as the build would write it for this processor.

    Parameters
    ----------
    nodes
        Conv, ConvTranspose, Gemm and MatMul in float32, whose second input is a weight.
    shapes
        Shapes of values at the planned input shapes.
    weights
        Shapes of constants.
    measure
        Times alternatives.

    Returns
    -------
    dict
        Times by name of the first output; equal operators are measured once. Operators of
        unknown shapes are left out, and those that ONNX Runtime refuses on their own.
    """
    measured: dict[tuple[object, ...], Form | None] = {}
    forms: dict[str, Form] = {}
    for node in nodes:
        operator = _operator(node, shapes, weights)
        if operator is None:
            continue
        if operator.key not in measured:
            measured[operator.key] = _form(operator, measure)
        if (form := measured[operator.key]) is not None:
            forms[node.output[0]] = form
    return forms


def slower_in_int8(
    proto: onnx.ModelProto,
    exclude: Collection[str],
    *,
    shapes: Mapping[str, tuple[int, ...]],
) -> frozenset[str]:
    """Names of the operators for which weight-only storage wins, measured on this processor.

    ``shapes`` are those of inputs to measure at.
    Operators in ``exclude`` are left out.
    """
    chosen = weighted(proto.graph, exclude=exclude)
    forms = measure_forms(
        [one.node for one in chosen],
        inferred_shapes(proto, shapes),
        {t.name: tuple(t.dims) for t in proto.graph.initializer},
    )
    return frozenset(
        one.node.name
        for one in chosen
        if one.node.output[0] in forms and forms[one.node.output[0]].choice == "weight-only"
    )


def _form(operator: _Operator, measure: Measure) -> Form | None:
    """Times of an operator; None where ONNX Runtime refuses it on its own."""
    try:
        alternatives = [_int8(operator), _weight_only(operator)]
    except ModelError:
        return None
    return Form(*(time / operator.share for time in measure(alternatives)))


def _operator(
    node: onnx.NodeProto,
    shapes: Mapping[str, tuple[int, ...]],
    weights: Mapping[str, tuple[int, ...]],
) -> _Operator | None:
    source, output = shapes.get(node.input[0]), shapes.get(node.output[0])
    weight = weights.get(node.input[1])
    given = len(node.input) > 2 and node.input[2]
    bias = weights.get(node.input[2]) if given else None
    if source is None or output is None or weight is None or (given and bias is None):
        return None
    operator = _Operator(node, source, output, weight, bias)
    return _narrower(operator) if operator.is_product else operator


def _narrower(operator: _Operator) -> _Operator:
    """A product of so few columns that its weight is as large as a block."""
    axis = operator.axis
    nbytes = np.dtype(np.float32).itemsize * prod(operator.weight)
    if axis is None or nbytes <= _LARGEST_BYTES:
        return operator
    columns = operator.weight[axis]
    fewer = max(columns * _LARGEST_BYTES // nbytes // _COLUMNS, 1) * _COLUMNS
    if fewer >= columns:
        return operator
    dims, bias = list(operator.weight), operator.bias
    dims[axis] = fewer
    if bias and bias[-1] == columns:
        bias = (*bias[:-1], fewer)
    return replace(operator, weight=tuple(dims), bias=bias, share=fewer / columns)


def _int8(operator: _Operator) -> Candidate:
    """The operator between quantised values."""
    model = _Model()
    axis = operator.axis
    channels = () if axis is None else (operator.weight[axis],)
    model.constant("weight_scale", np.full(channels, _SCALE, np.float32))
    model.constant("weight_zero", np.zeros(channels, np.int8))
    model.constant("numbers", np.ones(operator.weight, np.int8))
    around = {} if axis is None else {"axis": axis}
    if operator.is_product:
        source = model.rounded(model.input("x", "float32", operator.source))
    else:
        source = model.input("x", "uint8", operator.source)
    inputs = [
        model.widened(source),
        model.write("DequantizeLinear", "numbers", "weight_scale", "weight_zero", **around),
    ]
    if operator.bias is not None:
        each = channels if operator.bias[-1:] == channels else ()
        model.constant("bias_scale", np.full(each, _SCALE * _SCALE, np.float32))
        model.constant("bias", np.ones(operator.bias, np.int32))
        inputs.append(model.write("DequantizeLinear", "bias", "bias_scale", axis=-1))
    output = model.copy(operator.node, *inputs)
    model.output(output if operator.is_product else model.rounded(output))
    return model.candidate()


def _weight_only(operator: _Operator) -> Candidate:
    """The operator after what widens its weight.

    What widens and rounds for neighbours stands beside a convolution: around it, ONNX Runtime would
    quantise its weight (``WeightBiasQuantization``).
    """
    model = _Model()
    model.constant("weight", np.ones(operator.weight, np.float32))
    inputs = [model.input("x", "float32", operator.source), "weight"]
    if operator.bias is not None:
        model.constant("bias", np.ones(operator.bias, np.float32))
        inputs.append("bias")
    model.output(model.copy(operator.node, *inputs))
    if not operator.is_product:
        model.output(model.widened(model.input("before", "uint8", operator.source)))
        model.output(model.rounded(model.input("after", "float32", operator.output)))
    return model.candidate(narrow=True)


class _Model:
    """A model of one operator, written and built like any other."""

    def __init__(self) -> None:
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []
        self.constant("scale", np.array(_SCALE, np.float32))
        self.constant("middle", np.array(_MIDDLE, np.uint8))

    def input(self, name: str, dtype: str, shape: tuple[int, ...]) -> str:
        """Add an input; its name."""
        self._inputs.append(helper.make_tensor_value_info(name, ONNX_TYPES[dtype], shape))
        return name

    def output(self, name: str) -> None:
        """Let a value be an output."""
        self._outputs.append(helper.make_empty_tensor_value_info(name))

    def constant(self, name: str, array: np.ndarray[Any, Any]) -> None:
        """Add a constant."""
        self._constants.append(numpy_helper.from_array(array, name))

    def write(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Add an operator; the name of its output."""
        name = f"{kind}/{len(self._nodes)}"
        self._nodes.append(helper.make_node(kind, inputs, [name], name, **attributes))
        return name

    def copy(self, node: onnx.NodeProto, *inputs: str) -> str:
        """Add an operator with the attributes of another; the name of its output."""
        name = self.write(node.op_type, *inputs)
        self._nodes[-1].attribute.extend(node.attribute)
        return name

    def rounded(self, name: str) -> str:
        """A value in 8 bits."""
        return self.write("QuantizeLinear", name, "scale", "middle")

    def widened(self, name: str) -> str:
        """A value of 8 bits as floats."""
        return self.write("DequantizeLinear", name, "scale", "middle")

    def candidate(self, *, narrow: bool = False) -> Candidate:
        """The model as the build writes it, without layout changes that neighbours make needless.

        Parameters
        ----------
        narrow
            Store the weight as int8.
        """
        whole = helper.make_graph(self._nodes, "form", self._inputs, self._outputs, self._constants)
        imports = [helper.make_opsetid("", _OPSET)]
        model = helper.make_model(whole, opset_imports=imports, ir_version=_IR_VERSION)
        with working_folder("swapnet.") as work:
            onnx.save(model, work / "form.onnx")
            graph = optimise(open_source(work / "form.onnx"), work, operators=Operators.HARDWARE)
            graph = plan_shapes(graph, work / TYPES, {})
            if narrow:
                graph = narrow_weights(graph, "int8", work)
            return candidate(graph, [node for node in graph.nodes if node.op_type != "Transpose"])
