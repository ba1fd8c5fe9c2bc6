"""Runs of blocks that can be executed in strips of rows."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import accumulate, pairwise
from math import gcd, lcm
from typing import TYPE_CHECKING

import numpy as np

from swapnet.builder.cutting.partition import Part
from swapnet.builder.cutting.rows import (
    LEAST_PRODUCT_ROWS,
    Reach,
    is_product,
    keeps_tokens,
    reach_of,
    read_by_rows,
    row_axis,
)
from swapnet.builder.importing.graph import Graph, Value, copied, used_names
from swapnet.strips import Rows, Run, units_of

if TYPE_CHECKING:
    import onnx

__all__ = ["compute_factors_first", "edges", "local_runs", "open_tokens", "rows_of_values"]

_NCHWC = "com.microsoft.nchwc"
_MOST_UNIT_ROWS = 256
"""Largest unit: with more rows of a tensor in it there are few places to cut."""

_CONVOLUTIONS = frozenset({"Conv", "FusedConv", "ConvTranspose"})
_BY_CHANNEL = frozenset({"BatchNormalization", "QuantizeLinear", "DequantizeLinear"})
_RESIZING = frozenset({"Resize", "Upsample"})

_MOST_PARTS = 24
_WIDE, _LIGHT = 8, 4
"""Parts of the most that lives at once: values of a part in a run at least, and its weights at
most."""
_DEEP = 4
"""A run whose weights are read again has this part less one of the most that lives at once."""
_LEAST_GAIN = 8
"""Memory that strips save at least, as a part of the most that lives at once."""
_BLOCK_BYTES = 384 << 10
"""Memory of one more block, for each part that goes by tokens: there are some in each layer."""

_Link = tuple[str, str, Reach]
"""An input and an output of an operator, and its reach."""


def rows_of_values(graph: Graph, channels: int) -> dict[str, Rows]:
    """Rows of values in a unit that those with rows of each other have in common.

    Values of one row are left out, and those whose rows contradict each other. ``channels`` lie
    together in the NCHWc layout.
    """
    beside: dict[str, list[tuple[str, Fraction]]] = {}
    for node in graph.nodes:
        if reach := reach_of(graph, node):
            ratio = Fraction(reach.up, reach.down)
            for name in read_by_rows(graph, node):
                for output in filter(None, node.output):
                    if min(_height(graph, name), _height(graph, output)) > 1:
                        beside.setdefault(name, []).append((output, ratio))
                        beside.setdefault(output, []).append((name, 1 / ratio))
    together = dict.fromkeys(_blocked_values(graph), channels)
    products = {node.output[0] for node in graph.nodes if is_product(node)}
    found: dict[str, int] = {}
    for name in beside:
        rows = {} if name in found else _rows(beside, name)
        least = 1 if products.isdisjoint(rows) else LEAST_PRODUCT_ROWS
        found |= {other: count * least for other, count in rows.items()}
    return {
        name: Rows(rows, together.get(name, 1), row_axis(graph, len(graph.shapes(name)[1])))
        for name, rows in found.items()
    }


def local_runs(
    graph: Graph, parts: Sequence[Part], nbytes: Sequence[int], known: Mapping[str, Rows]
) -> tuple[Run, ...]:
    """Runs of consecutive parts that can be executed in strips, and have large values.

    Parameters
    ----------
    graph, parts
        The graph and its parts.
    nbytes
        Weights of each part. Where they are not far smaller than the values that live at once, they
        are read again for each strip. So such a run begins and ends where little lives, and has the
        most inside.
    known
        Rows of values in common units.
    """
    at, before = _live_bytes(graph)
    most = max(at, default=0)
    starts = [0, *accumulate(len(part.nodes) for part in parts)]
    is_wide = [max(at[a:z], default=0) * _WIDE >= most for a, z in pairwise(starts)]
    is_local = [
        not part.packed and None not in (reach_of(graph, node) for node in part.nodes)
        for part in parts
    ]
    runs: list[Run] = []
    for first in range(len(parts)):
        for last in range(first, len(parts)):
            if not is_local[last]:
                break
            is_light = first == last or sum(nbytes[first : last + 1]) * _LIGHT <= most
            start, stop = starts[first], starts[last + 1]
            is_deep = max(at[start:stop]) * _DEEP >= most * (_DEEP - 1)
            is_deep &= 2 * (before[start] + before[stop]) <= most
            is_light &= last - first < _MOST_PARTS
            if not (is_light or is_deep) or not (is_wide[first] and is_wide[last]):
                continue
            if run := _run(graph, parts, first, last, known):
                units = units_of(run, {name: _height(graph, name) for name in run.inputs})
                runs += [run] if is_light or run.above + run.below < units else []
    return tuple(runs)


def edges(graph: Graph) -> frozenset[int]:
    """Operators before which a cut lets those beside it be executed in strips, to their profit.

    They are the borders of operators that can be, where the values between them take far more
    memory than those that cross the borders. Others lie between: where few values live, and where
    images are enlarged.
    """
    at, before = _live_bytes(graph)
    is_local = [
        reach_of(graph, node) is not None and _height(graph, node.output[0]) > 1
        for node in graph.nodes
    ]
    borders = [i for i in range(1, len(is_local)) if is_local[i] != is_local[i - 1]]
    found: set[int] = set()
    of_tokens: list[tuple[int, int, int]] = []
    for first, stop in pairwise([0, *borders, len(is_local)]):
        most = max(at[first:stop], default=0)
        gain = most - max(before[first], before[stop])
        if not is_local[first] or gain * _LEAST_GAIN <= max(at):
            continue
        rank = len(graph.shapes(graph.nodes[first].output[0])[1])
        is_of_tokens = graph.has_tokens and rank < 4
        if is_of_tokens or any(map(is_product, graph.nodes[first:stop])):
            # No row is computed twice, so all but the largest values may lie outside.
            peak = at.index(most, first)
            start = min(range(peak, first - 1, -1), key=lambda i: before[i])
            of_tokens.append((gain, start, min(range(peak + 1, stop + 1), key=lambda i: before[i])))
        else:
            found |= {first, stop, *_narrows(before[first:stop], first, most)}
            found |= {i for i in range(first + 1, stop) if _is_enlarged(graph.nodes[i - 1 : i + 1])}
    least = len(of_tokens) * _BLOCK_BYTES
    found |= {edge for gain, *ends in of_tokens if gain > least for edge in ends}
    return frozenset(found - {0, len(is_local)})


def compute_factors_first(graph: Graph) -> Graph:
    """The graph with what a product reads whole computed before the large values that it reads.

    Operators of attention from the scores of keys on, which are such values, then lie in one run.
    """
    order = list(graph.nodes)
    for node in filter(is_product, graph.nodes):
        chain = _back_to_product(graph, node)
        needed, moved = {node.input[1]}, list["onnx.NodeProto"]()
        nbytes = [v.nbytes or 0 for n in (*chain[-1:], *needed) if (v := graph.values.get(n))]
        if len(nbytes) < 2 or nbytes[0] < nbytes[1]:
            continue
        first = order.index(graph.nodes[graph.producers[chain[-1]]])
        for before in reversed(order[first : order.index(node)]):
            if not needed.isdisjoint(before.output):
                needed.update(used_names(before))
                moved.insert(0, before)
        if needed.isdisjoint(chain):
            order[first:] = [*moved, *(each for each in order[first:] if each not in moved)]
    return replace(graph, nodes=order)


def open_tokens(graph: Graph) -> Graph:
    """The graph with Reshape to any number of tokens, where it only takes the first axis away.

    ONNX Runtime writes the planned number, for what it makes a Gemm of.
    """
    from onnx import numpy_helper

    inline, nodes = dict(graph.inline), []
    for node in graph.nodes:
        shape = graph.shapes(node.output[0])[0] if keeps_tokens(graph, node) else ("",)
        if all(isinstance(dim, int) for dim in shape):
            node = copied(node)
            node.input[1] = f"{node.output[0]}/tokens"
            target = np.array([*shape[:-2], -1, shape[-1]], np.int64)
            inline[node.input[1]] = numpy_helper.from_array(target, node.input[1])
        nodes.append(node)
    return replace(graph, nodes=nodes, inline=inline)


def _back_to_product(graph: Graph, node: onnx.NodeProto) -> list[str]:
    """Values from a product's first factor back to what another gives; empty where none does."""
    chain: list[str] = []
    while reach_of(graph, node) is not None and (read := read_by_rows(graph, node)):
        if (index := graph.producers.get(read[0])) is None:
            break
        chain.append(read[0])
        node = graph.nodes[index]
        if is_product(node):
            return chain if reach_of(graph, node) else []
    return []


def _narrows(live: Sequence[int], first: int, most: int) -> Iterator[int]:
    """Places where at most half as much lives as at the place before, and no more than around it.

    Strips of fewer operators have fewer rows beside them that are computed twice.
    """
    for index in range(1, len(live) - 1):
        if live[index] <= min(most // 2, *live[index - 1 : index + 2]):
            most = live[index]
            yield first + index


def _is_enlarged(nodes: Sequence[onnx.NodeProto]) -> bool:
    """Whether the first enlarges images, and the second does not: units are smaller from there."""
    return [node.op_type in _RESIZING for node in nodes] == [True, False]


def _live_bytes(graph: Graph) -> tuple[list[int], list[int]]:
    """Bytes of the values that are alive while each operator runs, and before it."""
    last = {name: index for index, node in enumerate(graph.nodes) for name in used_names(node)}
    given = {value.name for value in (*graph.inputs, *graph.outputs)}
    at, before, dying = [], [0], [0] * len(graph.nodes)
    for index, node in enumerate(graph.nodes):
        born = 0
        for name in filter(None, node.output):
            nbytes = graph.values[name].nbytes or 0 if name not in given else 0
            born += nbytes
            dying[max(last.get(name, index), index)] += nbytes
        at.append(before[-1] + born)
        before.append(at[-1] - dying[index])
    return at, before


def _blocked_values(graph: Graph) -> frozenset[str]:
    """Values in ONNX Runtime's NCHWc layout: its operators write them, and others keep it."""
    blocked: set[str] = set()
    for node in graph.nodes:
        values = [name for name in node.input if name in graph.values]
        keeps = node.op_type in ("Concat", "Split") or reach_of(graph, node) == Reach()
        if node.op_type != "ReorderOutput" and (
            node.domain == _NCHWC or (keeps and values and blocked.issuperset(values))
        ):
            blocked.update(node.output)
    return frozenset(blocked)


def _run(
    graph: Graph, parts: Sequence[Part], first: int, last: int, known: Mapping[str, Rows]
) -> Run | None:
    """The run of parts ``first`` to ``last``, with ``known`` rows of values.

    None where rows depend on rows of unknown distance, or where an input has no rows.
    """
    inside = parts[first : last + 1]
    produced = {name for part in inside for name in part.outputs}
    needed = {value.name for value in graph.outputs}
    needed.update(n for p in (*parts[:first], *parts[last + 1 :]) for n in p.inputs)
    inputs = dict.fromkeys(n for part in inside for n in part.inputs if n not in produced)
    outputs = [name for part in inside for name in part.outputs if name in needed]
    whole = {name for name in inputs if _height(graph, name) == 1}
    nodes = [node for part in inside for node in part.nodes]
    factors = {name for node in filter(is_product, nodes) for name in node.input[1:]}
    if any(not factors.isdisjoint(node.output) for node in nodes):
        return None
    whole |= factors
    links: list[_Link] = []
    for node in nodes:
        values = read_by_rows(graph, node)
        reach = reach_of(graph, node)
        if reach is None or not values or not _fits(graph, node, whole):
            return None
        read = [name for name in values if name not in whole]
        if not read and _height(graph, node.output[0]) > 1:
            return None
        if not read:
            whole.update(node.output)
        links += [(name, output, reach) for name in read for output in node.output if output]
    if not links or any(name not in known for link in links for name in link[:2]):
        return None
    rows = {name: known[name].per_unit for link in links for name in link[:2]}
    unit = gcd(*rows.values()) // (LEAST_PRODUCT_ROWS if factors else 1)
    rows = {name: count // unit for name, count in rows.items()}
    cut = [graph.values[name] for name in (*inputs, *outputs)]
    given = {value.name for value in graph.inputs}
    if any(not _is_sized(graph, value) for value in cut if value.name not in given):
        return None
    if not rows.keys() >= set(outputs) or max(rows.values(), default=0) > _MOST_UNIT_ROWS:
        return None
    above, below = dict.fromkeys(rows, 0), dict.fromkeys(rows, 0)
    for source, target, reach in links:
        above[target] = max(above[target], reach.above(above[source]))
        below[target] = max(below[target], reach.below(below[source]))
    return Run(
        first,
        last,
        max(-(-above[name] // rows[name]) for name in outputs),
        max(-(-below[name] // rows[name]) for name in outputs),
        {n: Rows(rows[n], known[n].channels, known[n].axis) for n in inputs if n in rows},
        {n: Rows(rows[n], known[n].channels, known[n].axis) for n in outputs},
    )


def _is_sized(graph: Graph, value: Value) -> bool:
    return all(isinstance(dim, int) or dim in graph.formulas for dim in value.shape)


def _height(graph: Graph, name: str) -> int:
    shape = graph.shapes(name)[1]
    axis = row_axis(graph, len(shape))
    return shape[axis] if len(shape) > axis else 1


def _fits(graph: Graph, node: onnx.NodeProto, whole: Collection[str]) -> bool:
    """Whether all rows read the same of its constants, and of values with one row."""
    kind = node.op_type
    rank = len(graph.shapes(node.output[0])[1])
    rows = row_axis(graph, rank)
    if rank <= rows:
        return False
    if kind in _CONVOLUTIONS:
        parameters = [name for i, name in enumerate(node.input) if name and i not in (0, 3)]
        return not any(name in graph.values for name in parameters)
    if kind in _BY_CHANNEL:
        axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
        return axis % rank != rows
    if kind in (*_RESIZING, "Reshape") or is_product(node):
        return True
    for name in filter(None, node.input):
        shape = graph.shapes(name)[1]
        is_cut = name in graph.values and name not in whole
        if is_cut and len(shape) != rank:
            return False
        if not is_cut and len(shape) >= rank - rows and shape[rows - rank] != 1:
            return False
    return True


def _rows(beside: Mapping[str, Sequence[tuple[str, Fraction]]], first: str) -> dict[str, int]:
    """Rows in a unit of all values that depend on one; empty where they contradict."""
    scales = {first: Fraction(1)}
    waiting = [first]
    while waiting:
        name = waiting.pop()
        for other, ratio in beside[name]:
            if other not in scales:
                scales[other] = scales[name] * ratio
                waiting.append(other)
            elif scales[other] != scales[name] * ratio:
                return {}
    unit = lcm(*(scale.denominator for scale in scales.values()))
    return {name: int(scale * unit) for name, scale in scales.items()}
