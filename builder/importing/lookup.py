"""Embedding tables: operators that read rows of a large table."""

from __future__ import annotations

import onnx

from swapnet.builder.importing.graph import Graph

__all__ = ["LOOKUP_BYTES", "is_lookup", "looked_up", "table_parts"]

LOOKUP_BYTES = 1 << 20
"""Smaller tables are ordinary weights."""

_LARGEST_ROW_BYTES = 1 << 20
"""Tables of larger rows are ordinary weights too: a row must fit in the reader's staging."""


def is_lookup(graph: Graph, node: onnx.NodeProto) -> bool:
    """Whether ``node`` gathers rows of a constant table of at least `LOOKUP_BYTES`."""
    if node.op_type != "Gather" or node.domain not in ("", "ai.onnx"):
        return False
    table = graph.constants.get(node.input[0])
    axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
    if table is None or axis != 0 or table.nbytes < LOOKUP_BYTES:
        return False
    return table.nbytes <= _LARGEST_ROW_BYTES * table.shape[0]


def looked_up(graph: Graph) -> frozenset[str]:
    """Constants that hold rows of tables that are looked up, slices of them too."""
    tables = {id(graph.constants[n.input[0]].data) for n in graph.nodes if is_lookup(graph, n)}
    return frozenset(name for name, c in graph.constants.items() if id(c.data) in tables)


def table_parts(graph: Graph, table: str) -> tuple[str, ...]:
    """The constants that hold the rows of ``table`` in order: its slices where it was sliced."""
    whole = graph.constants[table].data
    parts = [c for c in graph.constants.values() if c.data is whole and c.axis == 0]
    parts.sort(key=lambda part: part.start)
    return tuple(part.name for part in parts) or (table,)
