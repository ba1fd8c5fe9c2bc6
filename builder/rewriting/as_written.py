"""Put the operators of an optimised model into the order of its file.

ONNX Runtime goes over sets of addresses when it rearranges convolutions, so the order of what it
saves differs from run to run. Which values are alive together differs with it: YOLOv3 took 24 or 27
MiB, by the branch that came first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from graphlib import TopologicalSorter
from heapq import heappop, heappush

import onnx

from swapnet.builder.importing.graph import Graph, used_names

__all__ = ["as_written"]

_REARRANGED = "_nchwc"
"""What ONNX Runtime adds to the name of an output, for the operator that gives it in blocks."""


def as_written(graph: Graph, nodes: Sequence[onnx.NodeProto]) -> Graph:
    """The graph with operators in the order of ``nodes``, the model's own.

    Those without a place there come before their first reader. No operator computes anything else.
    """
    written = {name: at for at, node in enumerate(nodes) for name in (node.name, *node.output)}
    written.pop("", None)
    uses = [frozenset(used_names(node)) for node in graph.nodes]
    read: dict[str, int] = {}
    places = [len(nodes)] * len(graph.nodes)
    for index in reversed(range(len(graph.nodes))):
        node = graph.nodes[index]
        names = (*node.output, node.name.removesuffix(_REARRANGED))
        known = [written[name] for name in names if name in written]
        before = [read[name] for name in node.output if name in read]
        places[index] = place = max(known, default=min(before, default=len(nodes)))
        read |= {name: min(place, read.get(name, place)) for name in uses[index]}
    written_by = {name: index for index, node in enumerate(graph.nodes) for name in node.output}
    needs = {i: {written_by[n] for n in used if n in written_by} for i, used in enumerate(uses)}
    sorter = TopologicalSorter(needs)
    sorter.prepare()
    ready: list[tuple[int, list[str], int]] = []
    order: list[onnx.NodeProto] = []
    while sorter.is_active():
        for index in sorter.get_ready():
            heappush(ready, (places[index], list(graph.nodes[index].input), index))
        *_, index = heappop(ready)
        order.append(graph.nodes[index])
        sorter.done(index)
    return replace(graph, nodes=order)
