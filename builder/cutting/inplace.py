"""Values that may be written over one that dies: no copy, and no second place."""

from __future__ import annotations

from typing import TYPE_CHECKING

from swapnet.builder.cutting.partition import Part
from swapnet.builder.importing.graph import Graph, used_names

if TYPE_CHECKING:
    import onnx

__all__ = ["inplace_outputs"]


def inplace_outputs(graph: Graph, part: Part) -> dict[str, str]:
    """Outputs of a part that may lie where one of its inputs lies, by output.

    A convolution with a sum (ONNX Runtime's ``Conv`` of ``com.microsoft.nchwc``, ``FusedConv``)
    copies the sum to its output first, unless both lie in the same place; an addition reads each
    element before it writes it.

    Notes
    -----
    The input must not be needed by another part later: the layout of the values knows that.
    """
    pairs: dict[str, str] = {}
    for index, node in enumerate(part.nodes):
        later = {name for other in part.nodes[index + 1 :] for name in used_names(other)}
        for name in _overwritable(node):
            output = node.output[0]
            alone = list(node.input).count(name) == 1 and name not in later
            if (
                alone
                and name in part.inputs
                and output in part.outputs
                and name not in pairs.values()
                and graph.values[name].planned == graph.values[output].planned
                and graph.values[name].dtype == graph.values[output].dtype
            ):
                pairs[output] = name
                break
    return pairs


def _overwritable(node: onnx.NodeProto) -> list[str]:
    if node.op_type in ("Conv", "FusedConv") and len(node.input) > 3:
        return [node.input[3]]
    return list(node.input) if node.op_type == "Add" else []
