"""Operators too large for a block, split along their output channels.

Each output element is the same dot product as before; the parts are concatenated.
"""

from __future__ import annotations

from collections.abc import Container, Iterator
from dataclasses import dataclass, replace
from itertools import chain, count
from typing import TYPE_CHECKING

from swapnet.builder.graph import Constant, Graph, Value, used_names
from swapnet.builder.lookup import is_lookup

if TYPE_CHECKING:
    import onnx

__all__ = ["slice_operators"]

_CONVOLUTIONS = frozenset({"Conv", "FusedConv"})
_GEMMS = frozenset({"Gemm", "FusedGemm"})
_MATMULS = frozenset({"MatMul", "FusedMatMul"})
_CHANNEL_MULTIPLE = 16
"""Slices end where NCHWc blocks and vector registers do."""


@dataclass(frozen=True)
class _Sliced:
    """How one operator splits: which input is cut along which axis, and where parts join."""

    channels: int
    axes: dict[int, int]
    """Position of an input to the axis along which it is cut."""
    output_axis: int
    multiple: int = 1
    """Slices must end at multiples of it."""


def slice_operators(graph: Graph, max_block_bytes: int) -> Graph:
    """Split every operator whose weights exceed ``max_block_bytes``, where its kind allows it."""
    nodes: list[onnx.NodeProto] = []
    constants = dict(graph.constants)
    values = dict(graph.values)
    inline = dict(graph.inline)
    users = _users(graph)
    sliced: list[str] = []
    for index, node in enumerate(graph.nodes):
        nbytes = sum(graph.constants[name].nbytes for name in graph.weights_of[index])
        rule = _rule(graph, node) if nbytes > max_block_bytes else None
        bounds = _bounds(rule, -(-nbytes // max_block_bytes)) if rule else []
        if rule is None or len(bounds) < 2 or not _stored_once(graph, users, node, rule):
            nodes.append(node)
            continue
        sliced.append(node.output[0])
        nodes.extend(_split(graph, node, rule, bounds, constants, inline, values))
    used = {name for node in nodes for name in used_names(node)}
    return replace(
        graph,
        nodes=nodes,
        constants={n: c for n, c in constants.items() if n in used},
        inline=inline,
        values=values,
        sliced=tuple(sliced),
    )


def _users(graph: Graph) -> dict[str, list[onnx.NodeProto]]:
    users: dict[str, list[onnx.NodeProto]] = {}
    for index, names in graph.weights_of.items():
        for name in names:
            users.setdefault(name, []).append(graph.nodes[index])
    return users


def _stored_once(
    graph: Graph, users: dict[str, list[onnx.NodeProto]], node: onnx.NodeProto, rule: _Sliced
) -> bool:
    """Whether slicing stores no byte twice: others may only look up rows of contiguous slices."""
    return all(
        other is node or (axis == 0 and is_lookup(graph, other))
        for position, axis in rule.axes.items()
        for other in users.get(node.input[position], ())
    )


def _attribute(node: onnx.NodeProto, name: str, default: int) -> int:
    return next((a.i for a in node.attribute if a.name == name), default)


def _rule(graph: Graph, node: onnx.NodeProto) -> _Sliced | None:
    weight = graph.constants.get(node.input[1]) if len(node.input) > 1 else None
    if weight is None or weight.name == node.input[0]:
        return None
    if node.op_type in _CONVOLUTIONS or (
        node.op_type == "Conv" and node.domain == "com.microsoft.nchwc"
    ):
        if _attribute(node, "group", 1) != 1:
            return None
        axes = {1: 0}
        if len(node.input) > 2 and node.input[2]:
            axes[2] = 0
        if len(node.input) > 3 and node.input[3]:
            axes[3] = 1
        multiple = _CHANNEL_MULTIPLE if node.domain == "com.microsoft.nchwc" else 1
        return _Sliced(weight.shape[0], axes, 1, multiple)
    if node.op_type in _GEMMS | _MATMULS and len(weight.shape) == 2:
        axis = 0 if _attribute(node, "transB", 0) else 1
        axes = {1: axis}
        if node.op_type in _MATMULS:
            return _Sliced(weight.shape[axis], axes, -1)
        if len(node.input) > 2 and node.input[2]:
            declared, planned = _shapes(graph, node.input[2])
            if planned and planned[-1] == weight.shape[axis]:
                axes[2] = len(planned) - 1
            elif declared[-1:] not in ((), (1,)):
                return None
        return _Sliced(weight.shape[axis], axes, 1)
    return None


def _shapes(graph: Graph, name: str) -> tuple[tuple[int | str, ...], tuple[int, ...]]:
    """Declared and planned."""
    if name in graph.values:
        return graph.values[name].shape, graph.values[name].planned
    if name in graph.constants:
        return graph.constants[name].shape, graph.constants[name].shape
    dims = tuple(graph.inline[name].dims)
    return dims, dims


def _fresh(name: str, *taken: Container[str]) -> str:
    """``name``, or where one of ``taken`` holds it, ``name`` and a number."""
    names = chain([name], (f"{name}.{i}" for i in count()))
    return next(new for new in names if not any(new in held for held in taken))


def _split(
    graph: Graph,
    node: onnx.NodeProto,
    rule: _Sliced,
    bounds: list[tuple[int, int]],
    constants: dict[str, Constant],
    inline: dict[str, onnx.TensorProto],
    values: dict[str, Value],
) -> Iterator[onnx.NodeProto]:
    """The parts of one operator, what cuts their other inputs, and the concatenation."""
    from onnx import NodeProto, helper, numpy_helper

    output = node.output[0]
    splits: dict[int, list[str]] = {}
    for position, axis in rule.axes.items():
        name = node.input[position]
        names = [
            _fresh(f"{name}/{output}/{i}", values, constants, inline) for i in range(len(bounds))
        ]
        if name in graph.constants:
            for part, (start, stop) in zip(names, bounds, strict=True):
                constants[part] = graph.constants[name].slice(part, axis, start, stop)
        elif name in graph.inline:
            array = numpy_helper.to_array(graph.inline[name])
            for part, (start, stop) in zip(names, bounds, strict=True):
                index = (slice(None),) * axis + (slice(start, stop),)
                inline[part] = numpy_helper.from_array(array[index].copy(), part)
        else:
            _declare(values, names, values[name], axis, bounds)
            lengths = _fresh(f"{names[0]}/lengths", values, constants, inline)
            yield _split_value(graph, name, names, axis, bounds, lengths, inline)
        splits[position] = names
    outputs = [_fresh(f"{output}/{i}", values, constants, inline) for i in range(len(bounds))]
    _declare(values, outputs, values[output], rule.output_axis, bounds)
    for i, part in enumerate(outputs):
        sliced = NodeProto()
        sliced.CopyFrom(node)
        sliced.name = f"{node.name or output}/{i}"
        for position, names in splits.items():
            sliced.input[position] = names[i]
        sliced.output[0] = part
        yield sliced
    yield helper.make_node(
        "Concat", outputs, [output], name=f"{node.name or output}/concat", axis=rule.output_axis
    )


def _split_value(
    graph: Graph,
    name: str,
    parts: list[str],
    axis: int,
    bounds: list[tuple[int, int]],
    tensor: str,
    inline: dict[str, onnx.TensorProto],
) -> onnx.NodeProto:
    """What cuts ``name``; ``tensor`` is for the lengths where they are an input."""
    from onnx import helper

    lengths = [stop - start for start, stop in bounds]
    opset = next(o.version for o in graph.opset_imports if o.domain in ("", "ai.onnx"))
    if opset < 13:
        return helper.make_node("Split", [name], parts, name=parts[0], axis=axis, split=lengths)
    inline[tensor] = helper.make_tensor(tensor, 7, [len(lengths)], lengths)
    return helper.make_node("Split", [name, tensor], parts, name=tensor, axis=axis)


def _bounds(rule: _Sliced, parts: int) -> list[tuple[int, int]]:
    step = max(rule.channels // parts, 1)
    multiple = _CHANNEL_MULTIPLE if step >= _CHANNEL_MULTIPLE else rule.multiple
    step = max(step // multiple * multiple, multiple)
    starts = range(0, rule.channels, step)
    return [(start, min(start + step, rule.channels)) for start in starts]


def _declare(
    values: dict[str, Value],
    names: list[str],
    whole: Value,
    axis: int,
    bounds: list[tuple[int, int]],
) -> None:
    for name, (start, stop) in zip(names, bounds, strict=True):
        shape, planned = list(whole.shape), list(whole.planned)
        shape[axis] = planned[axis] = stop - start
        values[name] = Value(name, whole.dtype, tuple(shape), tuple(planned))
