"""Rows of a table that is computed from a stored one: they are gathered first, and then computed.

A quantised table lies under Cast, Mul and others, which take it element by element. They give the
same values for the gathered rows alone. The table is never in memory whole, and can be looked up.
"""

from __future__ import annotations

from math import prod

import onnx

from swapnet.builder.importing.graph import Graph, Value, copied, used_names
from swapnet.builder.importing.lookup import LOOKUP_BYTES
from swapnet.builder.rewriting.block_rows import gather_block_rows
from swapnet.builder.rewriting.writer import GraphWriter

__all__ = ["gather_rows_first"]

_ELEMENTWISE = frozenset({"Add", "Cast", "DequantizeLinear", "Div", "Mul", "Sub"})


def gather_rows_first(graph: Graph) -> Graph:
    """The graph with operators that gather rows of a computed table before what computes it.

    Parameters
    ----------
    graph
        With planned shapes. Tables with less than `LOOKUP_BYTES` stored stay as they are.
    """
    writer = _Writer(graph)
    for node in graph.nodes:
        writer.add(node)
    if len(writer.nodes) == len(graph.nodes):
        return graph
    needed = {value.name for value in graph.outputs}
    kept: list[onnx.NodeProto] = []
    for node in reversed(writer.nodes):
        if node.op_type not in _ELEMENTWISE | {"Reshape"} or not needed.isdisjoint(node.output):
            kept.append(node)
            needed.update(used_names(node))
    writer.nodes = kept[::-1]
    return writer.graph()


class _Writer(GraphWriter):
    def add(self, node: onnx.NodeProto) -> None:
        """Write an operator, or where it gathers rows of a computed table, the gathering first."""
        if gather_block_rows(self, node):
            return
        chain = self._chain(node)
        if not chain:
            self.nodes.append(node)
            return
        table = self._table(chain[0])
        gathered = self._gather(table, node)
        for computed in chain:
            copy = copied(computed)
            for position, given in enumerate(computed.input):
                if given == table:
                    copy.input[position] = gathered
                elif self._has_rows(given, table):
                    copy.input[position] = self._gather(given, node)
            table = computed.output[0]
            gathered = node.output[0] if computed is chain[-1] else self._named(table, node)
            copy.name = copy.output[0] = gathered
            self.nodes.append(copy)

    def _chain(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        """Operators that compute the table of which ``node`` gathers rows; none if it is stored."""
        axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
        if node.op_type != "Gather" or axis != 0 or not self._shape(node.input[1]):
            return []
        chain: list[onnx.NodeProto] = []
        name = node.input[0]
        while (index := self.source.producers.get(name)) is not None:
            computed = self.source.nodes[index]
            if computed.op_type not in _ELEMENTWISE or not self._is_by_rows(computed):
                return []
            chain.insert(0, computed)
            name = self._table(computed)
        stored = self.constants.get(name)
        return chain if stored is not None and stored.nbytes >= LOOKUP_BYTES else []

    def _is_by_rows(self, node: onnx.NodeProto) -> bool:
        """Whether a row of the output needs no more than a row of each input."""
        table = self._table(node)
        if not self._has_rows(node.output[0], table):
            return False
        for other in (name for name in node.input if name and name != table):
            shape = self._shape(other)
            if other in self.values or (node.op_type == "DequantizeLinear" and shape):
                return False
            if len(shape) == len(self._shape(table)) and shape[0] != 1 and other in self.inline:
                return False
        return True

    def _has_rows(self, name: str, table: str) -> bool:
        """Whether a tensor has one row for each row of a table."""
        shape, rows = self._shape(name), self._shape(table)
        return len(shape) == len(rows) and shape[0] == rows[0]

    def _table(self, node: onnx.NodeProto) -> str:
        table: str = max(filter(None, node.input), key=lambda name: prod(self._shape(name)))
        return table

    def _shape(self, name: str) -> tuple[int, ...]:
        return self.source.shapes(name)[1] if name else ()

    def _gather(self, table: str, node: onnx.NodeProto) -> str:
        copy = copied(node)
        copy.input[0] = table
        name = copy.name = copy.output[0] = self._named(table, node)
        self.nodes.append(copy)
        return name

    def _named(self, table: str, node: onnx.NodeProto) -> str:
        """A new value: the rows of ``table`` that ``node`` gathers."""
        result = self.values[node.output[0]]
        outer = len(self._shape(node.input[1]))
        dtype = (self.constants.get(table) or self.values[table]).dtype
        name = self.fresh(f"{result.name}/{table}")
        row = self._shape(table)[1:]
        shapes = [(*s[:outer], *row) if s else () for s in (result.planned, result.smallest)]
        self.values[name] = Value(name, dtype, (*result.shape[:outer], *row), *shapes)
        return name
