"""Order operators such that large values are computed late: less lives at once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from swapnet.builder.importing.graph import Graph, used_names

__all__ = ["compute_late"]

_FIRST = ("Shape", "Size")
"""ONNX Runtime executes these before all others that are ready."""


def compute_late(graph: Graph) -> Graph:
    """The graph with operators moved to before their first reader, where that takes no more memory.

    An operator moves if its outputs are at least as large as what must be kept for it meanwhile.
    No operator computes anything else.
    """
    given = {value.name for value in graph.inputs}
    order = [(node, frozenset(used_names(node))) for node in graph.nodes]

    def nbytes(names: Iterable[str]) -> int:
        return sum(graph.values[n].nbytes or 0 for n in names if n in graph.values)

    for index in range(len(order) - 2, -1, -1):
        node, used = order[index]
        later = range(index + 1, len(order))
        first = next((i for i in later if not order[i][1].isdisjoint(node.output)), index)
        if first <= index + 1 or node.op_type in _FIRST:
            continue
        kept = (used - given).difference(*(names for _, names in order[first:]))
        if nbytes(node.output) >= nbytes(kept):
            order.insert(first - 1, order.pop(index))
    return replace(graph, nodes=[node for node, _ in order])
