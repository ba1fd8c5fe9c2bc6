"""Logits of the tokens that an inference asks for: the vocabulary product gets no other rows.

A decoder that computes a prompt needs the logits of its last token only. Those of a chunk of 128
tokens take 24 MiB for a vocabulary of 49,152, and as much again while they are computed.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from swapnet.builder.importing.graph import Graph, Value, copied, used_names
from swapnet.builder.rewriting.writer import GraphWriter
from swapnet.executor.state import known_pairs
from swapnet.symbols import model_symbols
from swapnet.token_rows import IDS, LOGITS, ROWS

if TYPE_CHECKING:
    import onnx

__all__ = ["ask_rows"]

_PRODUCTS = frozenset({"Conv", "FusedMatMul", "MatMul", "MatMulNBits"})
_ROWWISE = _PRODUCTS | {
    *("Add", "Cast", "Div", "Mul", "Sub", "Tanh"),
    *("ReorderInput", "ReorderOutput", "Squeeze", "Unsqueeze"),
}
"""Operators after the last hidden state that compute each row by itself."""

_WITHIN_ROWS = frozenset({"ReduceSum", "Reshape"})
"""Operators that do so where they leave batch and tokens as they are: sums of blocks."""


def ask_rows(graph: Graph) -> Graph:
    """The graph with an input `ROWS`, by which rows are gathered before the vocabulary product.

    It has planned shapes, which stay: all rows are planned for. Graphs of others than decoders with
    a cache stay as they are, and those whose logits are not computed row by row.
    """
    ids = next((value for value in graph.inputs if value.name == IDS), None)
    names = [value.name for value in graph.inputs]
    outputs = [value.name for value in graph.outputs]
    is_decoder = ids and LOGITS in outputs and ROWS not in names and [*known_pairs(outputs, names)]
    if not ids or not is_decoder or len(ids.shape) != 2 or not isinstance(ids.shape[1], str):
        return graph
    writer = _Writer(graph, ids)
    hidden, chain = writer.head()
    return writer.gathered(hidden, chain) if hidden else graph


class _Writer(GraphWriter):
    def __init__(self, graph: Graph, ids: Value) -> None:
        super().__init__(graph)
        self._ids = ids

    def head(self) -> tuple[str, list[int]]:
        """The last hidden state, and the operators from it to the logits; empty if not found.

        They are walked from the last to the first. Values that are still to be walked are in
        ``open_values``; when one is left after a product, it is the hidden state.
        """
        graph, chain = self.source, set[int]()
        open_values, multiplied = {LOGITS}, False
        while open_values <= graph.producers.keys():
            name = max(open_values, key=graph.producers.__getitem__)
            index = graph.producers[name]
            node = graph.nodes[index]
            if not self._is_rowwise(node) or not chain.issuperset(graph.readers.get(name, ())):
                break
            chain.add(index)
            multiplied |= node.op_type in _PRODUCTS
            open_values.remove(name)
            open_values.update(self._computed(node))
            if multiplied and len(open_values) == 1:
                (name,) = open_values
                shape = graph.values[name].shape
                if len(shape) == 3 and self._is_tokens(shape[1]):
                    return name, sorted(chain)
        return "", []

    def gathered(self, hidden: str, chain: list[int]) -> Graph:
        """The graph with rows of ``hidden`` gathered before the operators of ``chain``."""
        graph = self.source
        rows = Value(ROWS, "int64", (ROWS,), self._ids.planned[1:])
        symbol = {ROWS: f"_{len(model_symbols(graph.inputs))}"} if graph.formulas else {}
        asked = replace(self._asked(graph.values[hidden]), name=self.fresh(f"{hidden}/asked"))
        for index, node in enumerate(graph.nodes):
            if index == chain[0]:
                self.write("Gather", [hidden, ROWS], asked, axis=1)
            if index in chain and hidden in node.input:
                node = copied(node)
                node.input[:] = [asked.name if name == hidden else name for name in node.input]
            self.nodes.append(node)
        for index in chain:
            for name in graph.nodes[index].output:
                self.values[name] = self._asked(self.values[name])
        self.values[ROWS] = rows
        return replace(
            self.graph(),
            inputs=(*graph.inputs, rows),
            outputs=tuple(self.values[value.name] for value in graph.outputs),
            symbols={**graph.symbols, ROWS: rows.planned[0]},
            formulas={**graph.formulas, **symbol},
        )

    def _is_rowwise(self, node: onnx.NodeProto) -> bool:
        computed = self._computed(node)
        others = [self.source.shapes(n)[1] for n in node.input[1:] if n and n not in computed]
        shapes = [self.source.values[name].shape for name in (*computed, node.output[0])]
        if not computed or node.input[0] != computed[0]:
            return False
        if node.op_type in _PRODUCTS:
            return len(computed) == 1 and (node.op_type != "Conv" or others[0][2:] == (1, 1))
        if node.op_type in _WITHIN_ROWS:
            rest = any(self._is_tokens(dim) for shape in shapes for dim in shape[2:])
            return len({shape[:2] for shape in shapes}) == 1 and not rest
        per_row = any(size != 1 for shape in others for size in shape[:-1])
        is_alike = len(computed) == 1 or len({*shapes}) == 1
        return node.op_type in _ROWWISE and not per_row and is_alike

    def _computed(self, node: onnx.NodeProto) -> list[str]:
        """Values that the operator reads, without constants."""
        return [*dict.fromkeys(name for name in used_names(node) if name in self.source.values)]

    def _is_tokens(self, dim: int | str) -> bool:
        formulas, tokens = self.source.formulas, self._ids.shape[1]
        known = formulas.get(str(dim))
        return dim == tokens or (known is not None and known == formulas.get(str(tokens)))

    def _asked(self, value: Value) -> Value:
        return replace(value, shape=tuple(ROWS if self._is_tokens(d) else d for d in value.shape))
