"""Values that say how large others are: host values to TensorRT, which no cut may cross.

A block that reads such a value from outside would wait for the device to learn its shapes. So each
operator that reads one computes it again, from a value that may cross a cut (`localise_shapes`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from math import prod

import onnx

from swapnet.builder.importing.constants import SHAPE_INPUTS
from swapnet.builder.importing.graph import Graph, bodies, copied, used_names
from swapnet.builder.rewriting.writer import GraphWriter

__all__ = ["localise_shapes", "shape_values"]

_LARGEST = 64
"""Elements of a shape value; larger ones are data from which a size is computed."""

_CHEAP_BYTES = 1 << 20
"""A value of this size may stay in memory for its shape alone."""

_MEASURING = frozenset({"Shape", "Size"})
"""Operators that read shapes and not elements."""


def shape_values(graph: Graph) -> frozenset[str]:
    """Values that reach an input that carries a shape (`SHAPE_INPUTS`), through any operators.

    Parameters
    ----------
    graph
        With planned shapes.
    """
    found: set[str] = set()
    waiting = [name for node in graph.nodes for name in _shaping(node)]
    while waiting:
        name = waiting.pop()
        value = graph.values.get(name)
        if name in found or value is None or prod(value.planned) > _LARGEST:
            continue
        found.add(name)
        index = graph.producers.get(name)
        if index is not None and graph.nodes[index].op_type not in _MEASURING:
            waiting.extend(used_names(graph.nodes[index]))
    return frozenset(found)


def localise_shapes(graph: Graph) -> Graph:
    """The graph with what computes shapes repeated before each operator that reads one.

    Then a shape lives between neighbours, and the value that it is a shape of crosses cuts: except
    a large one, which would have to stay in memory for its shape alone.
    """
    writer = _Localiser(graph, shape_values(graph))
    nodes = [copy for index, node in enumerate(graph.nodes) for copy in writer.copies(index, node)]
    needed = {value.name for value in graph.outputs}
    kept: list[onnx.NodeProto] = []
    for node in reversed(nodes):
        if not writer.is_shape_operator(node) or not needed.isdisjoint(node.output):
            kept.append(node)
            needed.update(used_names(node))
    return replace(graph, nodes=kept[::-1], values=writer.values)


class _Localiser(GraphWriter):
    """Repeats operators that compute shapes, under new names."""

    def __init__(self, graph: Graph, shapes: frozenset[str]) -> None:
        super().__init__(graph)
        self._shapes = set(shapes)
        self._given = {value.name for value in graph.inputs}
        self._producers = {
            name: node
            for node in graph.nodes
            if self.is_shape_operator(node)
            for name in node.output
        }

    def is_shape_operator(self, node: onnx.NodeProto) -> bool:
        """Whether all that ``node`` computes are shapes, and it can be repeated."""
        return self._shapes.issuperset(node.output) and not any(bodies(node))

    def copies(self, index: int, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        """The operator after copies of those that compute the shapes it reads."""
        if self.is_shape_operator(node):
            return [node]
        chain: dict[str, onnx.NodeProto] = {}
        for name in node.input:
            if name in self._producers and self._is_cheap(name):
                self._collect(name, chain)
        names = {name: self._copy_name(name, index) for name in chain}
        copied = {id(producer): producer for producer in chain.values()}
        return [_renamed(other, names) for other in (*copied.values(), node)]

    def _collect(self, name: str, chain: dict[str, onnx.NodeProto]) -> None:
        """Add what computes ``name`` by the names that it writes, in execution order."""
        producer = self._producers[name]
        if name in chain:
            return
        for source in producer.input:
            if source in self._producers:
                self._collect(source, chain)
        chain.update((output, producer) for output in producer.output)

    def _is_cheap(self, name: str) -> bool:
        """Whether all values whose shapes are read for ``name`` may stay in memory for that."""
        producer = self._producers[name]
        return all(
            self._is_cheap(source)
            if source in self._producers
            else source in self._given
            or source not in self.source.values
            or (self.source.values[source].nbytes or 0) <= _CHEAP_BYTES
            for source in producer.input
        )

    def _copy_name(self, name: str, index: int) -> str:
        copy = self.fresh(f"{name}/{index}")
        self.values[copy] = replace(self.values[name], name=copy)
        self._shapes.add(copy)
        return copy


def _renamed(node: onnx.NodeProto, names: Mapping[str, str]) -> onnx.NodeProto:
    """A copy that reads and writes other names; bodies keep what they capture."""
    copy = copied(node)
    copy.input[:] = [names.get(name, name) for name in node.input]
    if names.keys() & set(node.output):
        copy.output[:] = [names.get(name, name) for name in node.output]
        copy.name = copy.output[0]
    return copy


def _shaping(node: onnx.NodeProto) -> Iterator[str]:
    """Names that an operator and its bodies read as shapes; others may be among them."""
    positions = SHAPE_INPUTS.get(node.op_type, ())
    yield from (node.input[i] for i in positions if i < len(node.input))
    for body in bodies(node):
        for inner in body.node:
            yield from _shaping(inner)
