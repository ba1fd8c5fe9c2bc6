"""Values that may be written over one that dies: no copy, and no second place."""

from __future__ import annotations

from typing import TYPE_CHECKING

from swapnet.builder.cutting.partition import Part
from swapnet.builder.cutting.placing import VIEWS, Lives
from swapnet.builder.importing.graph import Graph

if TYPE_CHECKING:
    import onnx

__all__ = ["inplace_outputs"]


_ONNX = ("", "ai.onnx")
_ELEMENTWISE = (
    frozenset({"Add", "Sub", "Mul", "Div", "Abs", "Neg", "Sqrt", "Reciprocal", "Exp", "Log"})
    | {"Ceil", "Floor", "Clip", "Erf", "Tanh", "Sigmoid", "HardSigmoid"}
    | {"Relu", "LeakyRelu", "Elu", "Softmax"}
)
"""Operators that read each element before they write it, and never again; Softmax takes the largest
of each row first."""


def inplace_outputs(graph: Graph, part: Part, lives: Lives, start: int = 0) -> dict[str, str]:
    """Outputs of a part that may lie where a value lies that dies there, by output.

    A convolution with a sum (ONNX Runtime's ``Conv`` of ``com.microsoft.nchwc``, ``FusedConv``)
    copies the sum to its output first, unless both lie in the same place; an addition reads each
    element before it writes it. A view whose output has a place copies its input there, unless both
    lie in the same place.

    Parameters
    ----------
    lives, start
        First and last operator of each value (`lives_of`), and the number of the part's first one.
    """
    pairs: dict[str, str] = {}
    for index, node in enumerate(part.nodes, start):
        output = node.output[0]
        for name in _overwritable(node):
            dies = name in lives and lives[name][1] == index
            # A convolution reads its data again: that must not be a view of the sum.
            is_apart = node.op_type in _ELEMENTWISE or node.input[0] in lives
            alone = list(node.input).count(name) == 1 and is_apart
            fits = _same_bytes if node.op_type in VIEWS else _are_alike
            if dies and alone and output in part.outputs and fits(graph, name, output):
                pairs[output] = name
                break
    return pairs


def _are_alike(graph: Graph, name: str, other: str) -> bool:
    one, two = graph.values[name], graph.values[other]
    shapes = ([graph.formulas.get(str(dim), dim) for dim in value.shape] for value in (one, two))
    return one.dtype == two.dtype and one.planned == two.planned and next(shapes) == next(shapes)


def _same_bytes(graph: Graph, name: str, other: str) -> bool:
    return graph.values[name].nbytes == graph.values[other].nbytes


def _overwritable(node: onnx.NodeProto) -> list[str]:
    if node.op_type in ("Conv", "FusedConv") and len(node.input) > 3:
        return [node.input[3]]
    if node.op_type in VIEWS and node.domain in _ONNX:
        return [node.input[0]]
    elementwise = node.op_type in _ELEMENTWISE and node.domain in _ONNX
    return list(node.input) if elementwise else []
