"""What the values inside a block take, estimated before it is compiled."""

from __future__ import annotations

from swapnet.builder.cutting.partition import Part
from swapnet.builder.importing.graph import Graph, used_names
from swapnet.executor.planning.layout import Interval, pack

__all__ = ["inner_bytes"]


def inner_bytes(graph: Graph, part: Part) -> int:
    """Peak of the values that live inside a part, at the planned shapes, none written in place.

    What fused kernels keep is less: a compiled engine has a figure of its own.
    """
    outside = {*part.inputs, *part.outputs}
    born = {
        name: index
        for index, node in enumerate(part.nodes)
        for name in node.output
        if name in graph.values and name not in outside
    }
    last = dict(born)
    for index, node in enumerate(part.nodes):
        last.update({name: index for name in used_names(node) if name in born})
    intervals = (
        Interval(name, graph.values[name].nbytes or 0, first, last[name])
        for name, first in born.items()
    )
    return pack(intervals).nbytes
