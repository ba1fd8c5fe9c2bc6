"""Rules by which operators split along their output channels or directions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import gcd, lcm

import onnx

from swapnet.builder.importing.graph import Graph

__all__ = ["CHANNEL_MULTIPLE", "WIDENING", "Cut", "Rule", "slicing_rule", "widening_rule"]

CHANNEL_MULTIPLE = 16
"""Slices end where NCHWc blocks and vector registers do."""

WIDENING = frozenset({"Cast", "DequantizeLinear"})
"""Operators that compute a weight from a narrower one, element by element."""

_NCHWC = "com.microsoft.nchwc"

_BLOCKED_CHANNELS = 32
_GATHERED_CHANNELS = 128
"""Output channels from which on a part of a convolution takes little more than its share of the
time. Kernels of the blocked layout compute several blocks of channels at once: 16 channels take 1.2
to 1.8 of their share, 32 take 1.02 to 1.1. Others gather what a weight covers, for each part again:
32 channels take 1.14 to 1.6, 128 at most 1.1."""


@dataclass(frozen=True)
class _Kind:
    """Positions of the inputs of an operator kind.

    Attributes
    ----------
    weight
        Position of the weight.
    channelwise
        Positions of inputs with one element per output channel, or one for all.
    like_output
        Position of an input of the output's shape.
    """

    weight: int
    channelwise: tuple[int, ...] = ()
    like_output: int | None = None


_CONVOLUTIONS = {
    "Conv": _Kind(1, (2,), 3),
    "FusedConv": _Kind(1, (2,), 3),
    "ConvTranspose": _Kind(1, (2,)),
    "ConvInteger": _Kind(1, (3,)),
    "QLinearConv": _Kind(3, (4, 5, 8)),
}
_PRODUCTS = {
    "Gemm": _Kind(1, (2,)),
    "FusedGemm": _Kind(1, (2,)),
    "MatMul": _Kind(1),
    "FusedMatMul": _Kind(1),
    "MatMulInteger": _Kind(1, (3,)),
    "MatMulIntegerToFloat": _Kind(1, (3, 5, 6)),
    "DynamicQuantizeMatMul": _Kind(1, (2, 3, 4)),
    "QLinearMatMul": _Kind(3, (4, 5)),
    "QGemm": _Kind(3, (4, 5, 6)),
}

_RECURRENT = frozenset({"LSTM", "GRU", "RNN"})
_DIRECTED = (1, 2, 3, 5, 6, 7)
"""Inputs of recurrent operators with one entry for each direction: all but data and lengths."""

_COLUMNWISE = (1, 2, 3, 5)
"""Inputs of MatMulNBits with a part for each column: all but data and the order of rows."""


@dataclass(frozen=True)
class Cut:
    """Cut of a tensor: ``size`` elements along ``axis`` for each unit."""

    axis: int
    size: int = 1


@dataclass(frozen=True)
class Rule:
    """Split of an operator.

    Attributes
    ----------
    weight
        Position of the input that is too large.
    units
        Output channels, groups of them, or directions of a recurrent operator.
    cuts
        Cuts by position of an input; the other inputs are shared by all parts.
    outputs
        Cuts by position of an output: the parts join there.
    multiple
        Parts must end at multiples of this number of units.
    counted
        Attribute that holds the number of units: groups, which read input channels of their own, or
        columns.
    directed
        Units are directions, which have activation functions of their own.
    least
        Fewest units of a part that costs little more than its share of the whole.
    """

    weight: int
    units: int
    cuts: Mapping[int, Cut]
    outputs: Mapping[int, Cut]
    multiple: int = 1
    counted: str = ""
    directed: bool = False
    least: int = 1


def slicing_rule(graph: Graph, node: onnx.NodeProto) -> Rule | None:
    """The split of ``node``; None if it must stay whole."""
    if kind := _CONVOLUTIONS.get(node.op_type):
        return _convolution(graph, node, kind)
    if kind := _PRODUCTS.get(node.op_type):
        return _product(graph, node, kind)
    if node.op_type == "MatMulNBits":
        return _bit_product(graph, node)
    return _recurrent(node) if node.op_type in _RECURRENT else None


def widening_rule(graph: Graph, node: onnx.NodeProto, output: Cut, units: int) -> Rule | None:
    """The split of an operator of `WIDENING` such that its output is cut at ``output``."""
    cuts = {0: output}
    if node.op_type == "DequantizeLinear":
        rank = len(graph.shapes(node.input[0])[1])
        axis = _attribute(node, "axis", 1) % max(rank, 1)
        for position, name in enumerate(node.input):
            _, shape = graph.shapes(name) if name else ((), ())
            if position == 0 or shape in ((), (1,)):
                continue
            if len(shape) == 1 and axis == output.axis:
                cuts[position] = Cut(0, output.size)
            elif len(shape) > 1 and axis == output.axis:
                return None
            elif len(shape) > 1:
                cuts[position] = output
    return Rule(0, units, cuts, {0: output})


def _convolution(graph: Graph, node: onnx.NodeProto, kind: _Kind) -> Rule | None:
    _, shape = graph.shapes(node.input[kind.weight])
    if len(shape) < 3:
        return None
    groups = _attribute(node, "group", 1)
    transposed = node.op_type == "ConvTranspose"
    inner, outer = (shape[0] // groups, shape[1]) if transposed else (shape[1], shape[0] // groups)
    channel_axis = len(shape) - 1 if _attribute(node, "channels_last", 0) else 1
    grouped = groups > 1
    output = Cut(channel_axis, outer if grouped else 1)
    cuts = {kind.weight: Cut(1 if transposed and not grouped else 0, output.size)}
    multiple = CHANNEL_MULTIPLE if node.domain == _NCHWC else 1
    if grouped:
        cuts[0] = Cut(channel_axis, inner)
        if transposed:
            cuts[kind.weight] = Cut(0, inner)
        multiple = lcm(multiple // gcd(multiple, inner), multiple // gcd(multiple, outer))
    channelwise = _channelwise(graph, node, kind, groups * outer)
    if channelwise is None:
        return None
    cuts |= {position: Cut(axis, output.size) for position, axis in channelwise.items()}
    if kind.like_output is not None and _given(node, kind.like_output):
        cuts[kind.like_output] = output
    if grouped:
        return Rule(kind.weight, groups, cuts, {0: output}, multiple, "group")
    least = _BLOCKED_CHANNELS if node.domain == _NCHWC else _GATHERED_CHANNELS
    least = 1 if transposed else least
    return Rule(kind.weight, outer, cuts, {0: output}, multiple, least=least)


def _product(graph: Graph, node: onnx.NodeProto, kind: _Kind) -> Rule | None:
    _, shape = graph.shapes(node.input[kind.weight])
    if len(shape) != 2:
        return None
    axis = 0 if _attribute(node, "transB", 0) else 1
    channelwise = _channelwise(graph, node, kind, shape[axis])
    if channelwise is None:
        return None
    cuts = {position: Cut(axis) for position, axis in channelwise.items()}
    return Rule(kind.weight, shape[axis], {kind.weight: Cut(axis), **cuts}, {0: Cut(-1)})


def _bit_product(graph: Graph, node: onnx.NodeProto) -> Rule | None:
    """Columns of a product of few bits; weight, scales and zero points lie column by column."""
    columns = _attribute(node, "N", 0)
    cuts: dict[int, Cut] = {}
    for position in _COLUMNWISE:
        if _given(node, position):
            _, shape = graph.shapes(node.input[position])
            if not shape or shape[0] % columns:
                return None
            cuts[position] = Cut(0, shape[0] // columns)
    return Rule(1, columns, cuts, {0: Cut(-1)}, counted="N")


def _recurrent(node: onnx.NodeProto) -> Rule | None:
    """One part for each direction; parameters of functions tell nothing of theirs."""
    both = any(a.name == "direction" and a.s == b"bidirectional" for a in node.attribute)
    parameters = any(a.name in ("activation_alpha", "activation_beta") for a in node.attribute)
    if not both or parameters or _attribute(node, "layout", 0):
        return None
    cuts = {position: Cut(0) for position in _DIRECTED if _given(node, position)}
    outputs = {i: Cut(0 if i else 1) for i, name in enumerate(node.output) if name}
    return Rule(2, 2, cuts, outputs, directed=True)


def _channelwise(
    graph: Graph, node: onnx.NodeProto, kind: _Kind, channels: int
) -> dict[int, int] | None:
    """Inputs with one element per channel and the axis of them; None if one has another shape."""
    axes: dict[int, int] = {}
    for position in kind.channelwise:
        if not _given(node, position):
            continue
        declared, planned = graph.shapes(node.input[position])
        if planned and planned[-1] == channels:
            axes[position] = len(planned) - 1
        elif declared[-1:] not in ((), (1,)):
            return None
    return axes


def _given(node: onnx.NodeProto, position: int) -> bool:
    return position < len(node.input) and bool(node.input[position])


def _attribute(node: onnx.NodeProto, name: str, default: int) -> int:
    return next((a.i for a in node.attribute if a.name == name), default)
