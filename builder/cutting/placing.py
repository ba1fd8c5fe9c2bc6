"""Values inside parts that get places of their own: memory is planned operator by operator."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from swapnet.builder.cutting.partition import Part
from swapnet.builder.importing.graph import Graph, used_names

__all__ = ["VIEWS", "Lives", "lives_of", "with_inner_outputs"]

Lives = Mapping[str, tuple[int, int]]
"""First and last operator that touch the memory of each value, counted over all parts."""

_LEAST_BYTES = 4 << 10
_LEAST_SHARE = 256
"""Smaller values stay in the backend's arena, also those below this part of the largest sum of
values that live at once: each place costs a binding."""

VIEWS = frozenset({"Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Dropout"})
"""Operators whose output is the memory of their input, unless it has a place: then they copy."""


def with_inner_outputs(graph: Graph, parts: Iterable[Part]) -> list[Part]:
    """The parts with large values that live inside them as further outputs.

    An output has a place that is planned, and a value inside lies in the backend's arena, which
    leaves holes. No kernel computes anything else.
    """
    parts = list(parts)
    known = {
        name: value.nbytes or 0
        for name, value in graph.values.items()
        if all(isinstance(dim, int) or dim in graph.formulas for dim in value.shape)
    }
    least = max(_largest_sum(parts, known) // _LEAST_SHARE, _LEAST_BYTES)
    views = {n.output[0] for part in parts for n in part.nodes if n.op_type in VIEWS}
    read = {name for part in parts for node in part.nodes for name in used_names(node)}
    inner = {name for name in read - views if known.get(name, 0) >= least}
    return [
        part
        if part.lookup
        else replace(
            part,
            outputs=tuple(
                name
                for node in part.nodes
                for name in node.output
                if name in part.outputs or name in inner
            ),
        )
        for part in parts
    ]


def _largest_sum(parts: Sequence[Part], nbytes: dict[str, int]) -> int:
    """The largest sum of values that live at once."""
    nodes = [node for part in parts for node in part.nodes]
    last = {name: index for index, node in enumerate(nodes) for name in used_names(node)}
    ends: dict[int, int] = {}
    live = most = 0
    for index, node in enumerate(nodes):
        for name in node.output:
            size = nbytes.get(name, 0)
            live += size
            ends[last.get(name, index)] = ends.get(last.get(name, index), 0) + size
        most = max(most, live)
        live -= ends.get(index, 0)
    return most


def lives_of(graph: Graph, parts: Sequence[Part]) -> dict[str, tuple[int, int]]:
    """`Lives` of the outputs of all parts.

    An operator may hand on the memory of its input: what it
    writes to no place of its own keeps that input alive.
    """
    outputs = {name for part in parts for name in part.outputs}
    lives: dict[str, tuple[int, int]] = {}
    under: dict[str, set[str]] = {name: {name} for name in outputs}
    """Outputs whose memory a value may be."""
    for index, node in enumerate(node for part in parts for node in part.nodes):
        read = list(used_names(node))
        for name in node.output:
            if name in outputs:
                lives[name] = (index, index)
            else:
                under[name] = {
                    root
                    for other in read
                    if node.op_type in VIEWS or _same_size(graph, name, other)
                    for root in under.get(other, ())
                }
        for root in {root for name in read for root in under.get(name, ())}:
            lives[root] = (lives[root][0], index)
    return lives


def _same_size(graph: Graph, name: str, other: str) -> bool:
    values = graph.values
    known = name in values and other in values
    return known and values[name].nbytes == values[other].nbytes
