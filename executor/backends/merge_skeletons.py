"""Merge skeletons without the onnx package: ONNX files as protocol-buffer fields.

Concatenating two encoded messages merges them (Protocol Buffers encoding, "Last One Wins":
repeated fields are appended), so consecutive skeletons become one graph by copying fields.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from swapnet.protobuf import Field, edited, encoded, fields, number

__all__ = ["Parts", "merge_skeletons", "parts_of", "with_heights"]

_MODEL_GRAPH = 7
_GRAPH_NODE = 1
_GRAPH_NAME = 2
_GRAPH_INITIALIZER = 5
_GRAPH_INPUT = 11
_GRAPH_OUTPUT = 12
_NAME_OF = {_GRAPH_INITIALIZER: 8, _GRAPH_INPUT: 1, _GRAPH_OUTPUT: 1}
"""The field that holds the name, in TensorProto and ValueInfoProto."""
_TYPE = (2, 1, 2)
"""Path in a ValueInfoProto to the dimensions: type, tensor, shape."""
_FIXED = b"\x08"
"""First byte of a dimension that is a number."""


class Parts(NamedTuple):
    """What is merged of a skeleton: encoded fields, by name those that have one."""

    header: bytes
    nodes: bytes
    constants: dict[bytes, bytes]
    inputs: dict[bytes, bytes]
    outputs: dict[bytes, bytes]


def parts_of(model: bytes) -> Parts:
    """Take an encoded ``ModelProto`` apart.

    Raises
    ------
    ValueError
        It is damaged.
    """
    header: list[bytes] = []
    nodes: list[bytes] = []
    named: dict[int, dict[bytes, bytes]] = {number: {} for number in _NAME_OF}
    for field in fields(model):
        if field.number != _MODEL_GRAPH:
            header.append(model[field.start : field.end])
            continue
        for inner in fields(model, field.content, field.end):
            whole = model[inner.start : inner.end]
            if inner.number == _GRAPH_NODE:
                nodes.append(whole)
            elif inner.number in named:
                named[inner.number].setdefault(_name(model, inner), whole)
    return Parts(b"".join(header), b"".join(nodes), *named.values())


def merge_skeletons(skeletons: Sequence[Parts], outputs: Iterable[str]) -> bytes:
    """Merge consecutive skeletons to one model.

    Parameters
    ----------
    skeletons
        Parts of each block's skeleton; the header of the first is kept.
    outputs
        Names of the merged model's outputs: a subset of the blocks' outputs.
    """
    constants: dict[bytes, bytes] = {}
    inputs: dict[bytes, bytes] = {}
    produced: dict[bytes, bytes] = {}
    for parts in skeletons:
        constants |= {n: c for n, c in parts.constants.items() if n not in constants}
        inputs |= {n: i for n, i in parts.inputs.items() if n not in produced and n not in inputs}
        produced |= parts.outputs
    # Kernels pack constants only.
    inputs = {name: value for name, value in inputs.items() if name not in constants}
    nodes = [parts.nodes for parts in skeletons]
    results = [produced[name] for name in map(str.encode, outputs) if name in produced]
    graph = b"".join(
        [*nodes, encoded(_GRAPH_NAME, b"segment"), *constants.values(), *inputs.values(), *results]
    )
    return skeletons[0].header + encoded(_MODEL_GRAPH, graph)


def with_heights(model: bytes, heights: Mapping[str, tuple[int, int | None]]) -> bytes:
    """The model with other heights of its inputs and outputs: sizes of their axes of rows.

    Parameters
    ----------
    model
        An encoded ``ModelProto``.
    heights
        Axis and height by name, None for any; symbolic ones stay.
    """

    def resized(value: bytes) -> bytes:
        name = next(value[f.content : f.end] for f in fields(value) if f.number == 1).decode()
        if name not in heights:
            return value
        return edited(value, _TYPE, lambda shape: _with_dim(shape, *heights[name]))

    graph = edited(model, (_MODEL_GRAPH, _GRAPH_INPUT), resized)
    return edited(graph, (_MODEL_GRAPH, _GRAPH_OUTPUT), resized)


def _with_dim(shape: bytes, axis: int, size: int | None) -> bytes:
    dims = [shape[f.content : f.end] for f in fields(shape)]
    if len(dims) > axis and dims[axis][:1] == _FIXED:
        dims[axis] = b"" if size is None else _FIXED + number(size)
    return b"".join(encoded(1, dim) for dim in dims)


def _name(model: bytes, inside: Field) -> bytes:
    wanted = _NAME_OF[inside.number]
    found = fields(model, inside.content, inside.end)
    return next(model[f.content : f.end] for f in found if f.number == wanted)
