"""Put the operators of an optimised model into an order that the model's file decides.

ONNX Runtime goes over sets of addresses when it rearranges convolutions, so the order of what it
saves differs from run to run. Which values are alive together differs with it: YOLOv3 took 24 or 27
MiB, by the branch that came first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import onnx

from swapnet.builder.importing.graph import Graph, used_names

__all__ = ["as_written"]

_REARRANGED = "_nchwc"
"""What ONNX Runtime adds to the name of an output, for the operator that gives it in blocks."""


def as_written(graph: Graph, nodes: Sequence[onnx.NodeProto]) -> Graph:
    """The graph in ONNX Runtime's order of operators, without chance.

    That is depth first from the ends, of several inputs the one first that the model's own
    ``nodes`` compute last. Operators that are not among those count as their first reader.
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
    made = graph.producers
    needs = {i: {made[name] for name in used if name in made} for i, used in enumerate(uses)}
    rank = [(place, list(node.input)) for place, node in zip(places, graph.nodes, strict=True)]
    ends = {*needs}.difference(*needs.values())
    waiting = sorted(ends, key=rank.__getitem__, reverse=True)
    done: dict[int, onnx.NodeProto] = {}
    while waiting:
        index = waiting[-1]
        if missing := [i for i in needs[index] if i not in done]:
            waiting.append(max(missing, key=rank.__getitem__))
        else:
            done[waiting.pop()] = graph.nodes[index]
    return replace(graph, nodes=list(done.values()))
