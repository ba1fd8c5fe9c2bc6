"""Operators too large for a block, split along their output channels or directions.

Each output element is the same dot product as before; the parts are concatenated.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import onnx
from onnx import helper, numpy_helper

from swapnet.builder.importing.graph import Graph, Value, copied, used_names
from swapnet.builder.importing.lookup import is_lookup
from swapnet.builder.rewriting.slicing_rules import (
    CHANNEL_MULTIPLE,
    WIDENING,
    Cut,
    Rule,
    slicing_rule,
    widening_rule,
)
from swapnet.builder.rewriting.writer import GraphWriter
from swapnet.token_rows import ROWS

__all__ = ["slice_operators"]

_Bounds = Sequence[tuple[int, int]]
"""First unit of each part, and the one after its last."""


@dataclass(frozen=True)
class _Widening:
    """An operator that computes the weight of another, and of no other."""

    index: int
    rule: Rule


@dataclass(frozen=True)
class _Split:
    """Parts into which one operator of a graph is split."""

    rule: Rule
    bounds: _Bounds
    widening: _Widening | None


_LITTLE_BYTES = 1 << 20
"""An output of this size may be held twice, whatever that saves."""


_COARSEST = 8
"""Parts that cost time are made down to this fraction of all weights: two of them, and what is read
meanwhile, fit in a quarter."""


def slice_operators(graph: Graph, max_block_bytes: int, *, by_cost: bool = False) -> Graph:
    """Split every operator with weights above ``max_block_bytes``, where its kind allows it.

    With ``by_cost``, parts are larger where smaller ones take more time together.

    Parts of an output are alive together with the whole of it: an operator stays whole where that
    takes more memory than splitting saves, and more than another operator takes anyway.

    What widens its weight (`WIDENING`) is split with it.
    """
    most_bytes = max((_touched_bytes(graph, node) for node in graph.nodes), default=0)
    weights_bytes = sum(constant.nbytes for constant in graph.constants.values())
    coarsest_bytes = weights_bytes // _COARSEST if by_cost else 0
    splits = _agreed(
        graph,
        {
            index: split
            for index in range(len(graph.nodes))
            if (split := _split(graph, index, max_block_bytes, most_bytes, coarsest_bytes))
        },
    )
    absorbed = {split.widening.index for split in splits.values() if split.widening}
    writer = _Writer(graph)
    for index, node in enumerate(graph.nodes):
        if index in splits:
            writer.split(node, splits[index])
        elif index not in absorbed:
            writer.nodes.append(node)
    used = {name for node in writer.nodes for name in used_names(node)}
    gone = {name for index in absorbed for name in graph.nodes[index].output}
    return replace(
        writer.graph(),
        constants={n: c for n, c in writer.constants.items() if n in used},
        values={n: v for n, v in writer.values.items() if n not in gone},
        sliced=tuple(graph.nodes[i].output[min(s.rule.outputs)] for i, s in splits.items()),
    )


def _split(
    graph: Graph, index: int, max_block_bytes: int, most_bytes: int, coarsest_bytes: int
) -> _Split | None:
    """The split of an operator; None if it is small enough or must stay whole.

    Parameters
    ----------
    most_bytes
        The most bytes of values that any operator touches.
    coarsest_bytes
        Bytes of a part that need not be fewer where that takes time; 0 if no more than
        ``max_block_bytes`` are allowed.
    """
    node = graph.nodes[index]
    rule = slicing_rule(graph, node)
    if rule is None:
        return None
    weight = node.input[rule.weight]
    producer = _widens(graph, weight)
    if producer is None and (weight not in graph.constants or weight == node.input[0]):
        return None
    indices = [index] if producer is None else [index, producer]
    nbytes = sum(graph.constants[name].nbytes for i in indices for name in graph.weights_of[i])
    count = -(-nbytes // max_block_bytes)
    if coarsest_bytes:
        count = min(count, max(rule.units // rule.least, -(-nbytes // coarsest_bytes), 1))
    bounds = _bounds(rule, count)
    if nbytes <= max_block_bytes or len(bounds) < 2:
        return None
    output_bytes = _value_bytes(graph, node.output)
    saved = max(nbytes - nbytes // len(bounds), _LITTLE_BYTES)
    if output_bytes > saved and _touched_bytes(graph, node) + output_bytes > most_bytes:
        return None
    if producer is None:
        return _Split(rule, bounds, None)
    inner = widening_rule(graph, graph.nodes[producer], rule.cuts[rule.weight], rule.units)
    if inner is None:
        return None
    return _Split(rule, bounds, _Widening(producer, inner))


def _value_bytes(graph: Graph, names: Iterable[str]) -> int:
    """Bytes of values; of rows that an inference asks for few are planned."""
    values = (graph.values[name] for name in names if name in graph.values)
    asked = graph.symbols.get(ROWS, 1)
    return sum((v.nbytes or 0) // (asked if ROWS in v.shape else 1) for v in values)


def _touched_bytes(graph: Graph, node: onnx.NodeProto) -> int:
    """Bytes of the values that an operator reads and writes."""
    return _value_bytes(graph, {*node.input, *node.output})


def _widens(graph: Graph, name: str) -> int | None:
    """The operator that computes ``name`` from a weight, if only one other operator reads it."""
    index = graph.producers.get(name)
    if index is None or len(graph.readers[name]) > 1 or name in {v.name for v in graph.outputs}:
        return None
    node = graph.nodes[index]
    return index if node.op_type in WIDENING and node.input[0] in graph.constants else None


def _agreed(graph: Graph, splits: Mapping[int, _Split]) -> Mapping[int, _Split]:
    """The splits that store no byte twice: all readers of a weight must cut it alike.

    Others may only look up rows of contiguous slices.
    """
    slices: dict[tuple[int, str], tuple[Cut, _Bounds]] = {}
    apart: set[int] = set()
    for index, split in splits.items():
        cutting = [(index, split.rule)]
        cutting += [(split.widening.index, split.widening.rule)] if split.widening else []
        for i, rule in cutting:
            for position, cut in rule.cuts.items():
                found = cut, split.bounds
                if slices.setdefault((i, graph.nodes[i].input[position]), found) != found:
                    apart.add(i)
    for (index, name), found in slices.items():
        for user in graph.readers[name] if name in graph.constants else ():
            looks_up = found[0].axis == 0 and is_lookup(graph, graph.nodes[user])
            if slices.get((user, name)) != found and not looks_up:
                apart.add(index)
    agreed = {
        index: split
        for index, split in splits.items()
        if index not in apart and not (split.widening and split.widening.index in apart)
    }
    return agreed if len(agreed) == len(splits) else _agreed(graph, agreed)


def _bounds(rule: Rule, parts: int) -> _Bounds:
    step = max(rule.units // parts, 1)
    aligned = rule.counted != "group" and step >= CHANNEL_MULTIPLE
    multiple = CHANNEL_MULTIPLE if aligned else rule.multiple
    step = max(step // multiple * multiple, multiple)
    return [(start, min(start + step, rule.units)) for start in range(0, rule.units, step)]


def _direct(part: onnx.NodeProto, index: int) -> None:
    """Let a recurrent operator run in one of its directions, with the functions of that one."""
    for attribute in part.attribute:
        if attribute.name == "direction":
            attribute.s = (b"forward", b"reverse")[index]
        elif attribute.name == "activations":
            half = len(attribute.strings) // 2
            attribute.strings[:] = attribute.strings[index * half : (index + 1) * half]


class _Writer(GraphWriter):
    """Writes operators in parts; those that share a weight share its slices."""

    def __init__(self, source: Graph) -> None:
        super().__init__(source)
        self._slices: dict[str, list[str]] = {}
        self._read = source.readers.keys() | {value.name for value in source.outputs}

    def split(self, node: onnx.NodeProto, split: _Split) -> None:
        """Write the parts of one operator, what cuts their other inputs, and what joins them."""
        rule, widening = split.rule, split.widening
        output = node.output[min(rule.outputs)]
        given = {
            position: self._cut(node.input[position], cut, split.bounds, output)
            for position, cut in rule.cuts.items()
            if widening is None or position != rule.weight
        }
        widened: dict[int, list[str]] = {}
        if widening is not None:
            wide = self.source.nodes[widening.index]
            widened = {
                position: self._cut(wide.input[position], cut, split.bounds, output)
                for position, cut in widening.rule.cuts.items()
            }
            wide_outputs = self._outputs(wide, widening.rule, split.bounds)
            given[rule.weight] = wide_outputs[0]
        outputs = self._outputs(node, rule, split.bounds)
        for i, (start, stop) in enumerate(split.bounds):
            if widening is not None:
                self._part(wide, i, widened, wide_outputs)
            part = self._part(node, i, given, outputs)
            if rule.counted:
                (count,) = (a for a in part.attribute if a.name == rule.counted)
                count.i = stop - start
            if rule.directed:
                _direct(part, i)
        for position, names in outputs.items():
            whole = node.output[position]
            if whole not in self._read:
                del self.values[whole]
                continue
            name = f"{node.name or output}/concat" + (f"/{position}" if position else "")
            axis = rule.outputs[position].axis
            self.nodes.append(helper.make_node("Concat", names, [whole], name=name, axis=axis))

    def _part(
        self,
        node: onnx.NodeProto,
        index: int,
        inputs: Mapping[int, list[str]],
        outputs: Mapping[int, list[str]],
    ) -> onnx.NodeProto:
        part = copied(node)
        part.name = f"{node.name or node.output[min(outputs)]}/{index}"
        for position, names in inputs.items():
            part.input[position] = names[index]
        for position, names in outputs.items():
            part.output[position] = names[index]
        self.nodes.append(part)
        return part

    def _outputs(self, node: onnx.NodeProto, rule: Rule, bounds: _Bounds) -> dict[int, list[str]]:
        """Names of what the parts of an operator give, by position."""
        outputs: dict[int, list[str]] = {}
        for position, cut in rule.outputs.items():
            whole = node.output[position]
            names = [self.fresh(f"{whole}/{i}") for i in range(len(bounds))]
            self._declare(names, self.values[whole], cut, bounds)
            outputs[position] = names
        return outputs

    def _cut(self, name: str, cut: Cut, bounds: _Bounds, user: str) -> list[str]:
        """Names of the parts of an input: slices of a constant, or what an operator cuts."""
        axis, size = cut.axis, cut.size
        if name in self._slices:
            return self._slices[name]
        names = [self.fresh(f"{name}/{user}/{i}") for i in range(len(bounds))]
        if name in self.source.constants:
            whole = self.source.constants[name]
            for part, (start, stop) in zip(names, bounds, strict=True):
                self.constants[part] = whole.slice(part, axis, start * size, stop * size)
            self._slices[name] = names
        elif name in self.source.inline:
            array = numpy_helper.to_array(self.source.inline[name])
            for part, (start, stop) in zip(names, bounds, strict=True):
                index = (slice(None),) * axis + (slice(start * size, stop * size),)
                self.inline[part] = numpy_helper.from_array(array[index].copy(), part)
        else:
            self._declare(names, self.source.values[name], cut, bounds)
            self._split_value(name, names, cut, bounds)
        return names

    def _split_value(self, name: str, parts: list[str], cut: Cut, bounds: _Bounds) -> None:
        """Write what cuts ``name``; the lengths are an attribute or an input."""
        lengths = [(stop - start) * cut.size for start, stop in bounds]
        tensor = f"{parts[0]}/lengths"
        node = helper.make_node("Split", [name], parts, name=tensor, axis=cut.axis)
        if self.opset < 13:
            node.attribute.append(helper.make_attribute("split", lengths))
        else:
            node.input.append(self.integers(tensor, lengths))
        self.nodes.append(node)

    def _declare(self, names: list[str], whole: Value, cut: Cut, bounds: _Bounds) -> None:
        for name, (start, stop) in zip(names, bounds, strict=True):
            shape, planned = list(whole.shape), list(whole.planned)
            smallest = list(whole.smallest or whole.planned)
            shape[cut.axis] = planned[cut.axis] = smallest[cut.axis] = (stop - start) * cut.size
            self.values[name] = Value(
                name,
                whole.dtype,
                tuple(shape),
                tuple(planned),
                tuple(smallest) if whole.smallest else (),
            )
