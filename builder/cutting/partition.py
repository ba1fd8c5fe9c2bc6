"""The graph as parts: where it is cut, what goes in and out, which part stores which weight."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import TYPE_CHECKING

from swapnet.builder.cutting.cut import CUT_COST_BYTES, Operator, Span, cut, live_bytes
from swapnet.builder.importing.graph import Graph, used_names
from swapnet.builder.importing.lookup import is_lookup, table_parts

if TYPE_CHECKING:
    import onnx

__all__ = ["Ownership", "Part", "assign_weights", "part_of", "partition"]

_COPIED_BYTES = 16 << 10
"""Most bytes that are stored again of a weight that several parts use."""


@dataclass(frozen=True)
class Part:
    """Consecutive operators with what goes in and out.

    Attributes
    ----------
    inputs, outputs
        Values read from, and needed by, others: in order of first use.
    weights, inline
        Constants by name, those captured by subgraphs included.
    lookup
        It reads rows of a table, and nothing else.
    packed
        Weights that its kernels pack, and what they read with these: constants, no inputs.
    """

    nodes: tuple[onnx.NodeProto, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    weights: tuple[str, ...]
    inline: tuple[str, ...]
    lookup: bool
    packed: tuple[str, ...] = ()

    @property
    def operators(self) -> tuple[str, ...]:
        """Names of the operator kinds, in order."""
        return tuple(node.op_type for node in self.nodes)


@dataclass(frozen=True)
class Ownership:
    """Place of each weight: shared by several parts, or stored in the extent of one.

    Attributes
    ----------
    shared
        Weights that the same parts use, by the positions of these parts.
    own, originals
        Weights of each part alone, and packed ones that are stored nowhere else.
    """

    shared: Mapping[tuple[int, ...], tuple[str, ...]]
    own: tuple[tuple[str, ...], ...]
    originals: tuple[tuple[str, ...], ...]


def partition(
    graph: Graph,
    max_block_bytes: int,
    *,
    cut_cost_bytes: int = CUT_COST_BYTES,
    uncut: Collection[str] = (),
    edges: Collection[int] = (),
) -> list[Part]:
    """Cut ``graph`` into parts of at most ``max_block_bytes`` of weights where possible.

    One more part costs ``cut_cost_bytes`` of live values; values in ``uncut`` must not cross a cut.
    The graph is cut before the operators ``edges``.
    """
    given = {value.name for value in graph.inputs}
    results = [value.name for value in graph.outputs]
    operators = [_operator(graph, index) for index in range(len(graph.nodes))]
    crossing = {
        n: None if n in uncut else v.nbytes for n, v in graph.values.items() if n not in given
    }
    live = live_bytes(operators, [name for name in results if name not in uncut], crossing)
    operators = [
        replace(op, alone=op.alone and None not in live[index : index + 2])
        for index, op in enumerate(operators)
    ]
    spans = cut(operators, max_block_bytes, live, cut_cost_bytes, edges)
    later: list[set[str]] = [set(results)]
    for span in reversed(spans[1:]):
        used = {n for node in graph.nodes[span.start : span.stop] for n in used_names(node)}
        later.append(later[-1] | used)
    return [
        part_of(graph, span, needed, lookup=operators[span.start].alone)
        for span, needed in zip(spans, reversed(later), strict=True)
    ]


def assign_weights(graph: Graph, parts: Sequence[Part]) -> Ownership:
    """Store each weight with the part that uses it, or apart where several do.

    Small ones that several use are stored with each of them: they would be read for themselves.
    A table that is also multiplied lies with the parts that multiply it; one that is only
    looked up, or packed, lies with its lookup.
    """
    users: dict[str, tuple[int, ...]] = {}
    for index, part in enumerate(parts):
        for name in () if part.lookup else part.weights:
            if name not in part.packed:
                users[name] = (*users.get(name, ()), index)
    shared: dict[tuple[int, ...], tuple[str, ...]] = {}
    for name, using in users.items():
        if (len(using) - 1) * graph.constants[name].nbytes > _COPIED_BYTES:
            shared[using] = (*shared.get(using, ()), name)
    apart = set(chain.from_iterable(shared.values()))
    stored = set(apart)
    own: list[tuple[str, ...]] = []
    for part in parts:
        if part.lookup:
            pieces: Iterable[str] = table_parts(graph, part.weights[0])
            kept = tuple(n for n in pieces if n not in stored and n not in users)
        else:
            kept = tuple(n for n in part.weights if n not in apart and n not in part.packed)
        stored.update(kept)
        own.append(kept)
    originals: list[tuple[str, ...]] = []
    for part in parts:
        originals.append(tuple(n for n in part.packed if n not in stored))
        stored.update(originals[-1])
    return Ownership(shared, tuple(own), tuple(originals))


def _operator(graph: Graph, index: int) -> Operator:
    node = graph.nodes[index]
    weights = graph.weights_of[index]
    lookup = is_lookup(graph, node)
    return Operator(
        weights=weights,
        weights_bytes=tuple(0 if lookup else graph.constants[n].nbytes for n in weights),
        inputs=tuple(dict.fromkeys(n for n in used_names(node) if n in graph.values)),
        outputs=tuple(filter(None, node.output)),
        alone=lookup and node.input[1] in graph.values,
    )


def part_of(
    graph: Graph, span: Span, needed_later: Collection[str], *, lookup: bool = False
) -> Part:
    """The part of a span; ``needed_later`` are values that others or the caller read."""
    nodes = tuple(graph.nodes[span.start : span.stop])
    produced = dict.fromkeys(name for node in nodes for name in node.output if name)
    used = dict.fromkeys(name for node in nodes for name in used_names(node))
    packing = [node for node in nodes if not graph.packing.isdisjoint(node.output)]
    packed = (name for node in packing for name in node.input if name in graph.constants)
    return Part(
        nodes=nodes,
        inputs=tuple(n for n in used if n in graph.values and n not in produced),
        outputs=tuple(n for n in produced if n in needed_later),
        weights=tuple(n for n in used if n in graph.constants),
        inline=tuple(n for n in used if n in graph.inline),
        lookup=lookup,
        packed=tuple(dict.fromkeys(packed)),
    )
