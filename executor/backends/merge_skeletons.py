"""Merge skeletons without the onnx package: ONNX files as protocol-buffer fields.

Concatenating two encoded messages merges them (Protocol Buffers encoding, "Last One Wins":
repeated fields are appended), so consecutive skeletons become one graph by copying fields.
"""

from __future__ import annotations

from collections.abc import Iterable

from swapnet.protobuf import Field, encoded, fields

__all__ = ["merge_skeletons"]

_MODEL_GRAPH = 7
_GRAPH_NODE = 1
_GRAPH_NAME = 2
_GRAPH_INITIALIZER = 5
_GRAPH_INPUT = 11
_GRAPH_OUTPUT = 12
_NAME_OF = {_GRAPH_INITIALIZER: 8, _GRAPH_INPUT: 1, _GRAPH_OUTPUT: 1}
"""The field that holds the name, in TensorProto and ValueInfoProto."""


def merge_skeletons(skeletons: Iterable[bytes], outputs: Iterable[str]) -> bytes:
    """Merge consecutive skeletons to one model.

    Parameters
    ----------
    skeletons
        Encoded ``ModelProto`` of each block; the header of the first is kept.
    outputs
        Names of the merged model's outputs: a subset of the blocks' outputs.

    Raises
    ------
    ValueError
        A skeleton is damaged.
    """
    wanted = set(outputs)
    header: list[bytes] = []
    nodes: list[bytes] = []
    constants: dict[bytes, bytes] = {}
    inputs: dict[bytes, bytes] = {}
    produced: dict[bytes, bytes] = {}
    for index, model in enumerate(skeletons):
        for field in fields(model):
            if field.number != _MODEL_GRAPH:
                if index == 0:
                    header.append(model[field.start : field.end])
                continue
            for inner in fields(model, field.content, field.end):
                whole = model[inner.start : inner.end]
                if inner.number == _GRAPH_NODE:
                    nodes.append(whole)
                elif inner.number == _GRAPH_INITIALIZER:
                    constants.setdefault(_name(model, inner), whole)
                elif inner.number == _GRAPH_INPUT:
                    name = _name(model, inner)
                    if name not in produced:
                        inputs.setdefault(name, whole)
                elif inner.number == _GRAPH_OUTPUT:
                    produced[_name(model, inner)] = whole
    results = [whole for name, whole in produced.items() if name.decode() in wanted]
    graph = b"".join(
        [*nodes, encoded(_GRAPH_NAME, b"segment"), *constants.values(), *inputs.values(), *results]
    )
    return b"".join([*header, encoded(_MODEL_GRAPH, graph)])


def _name(model: bytes, inside: Field) -> bytes:
    wanted = _NAME_OF[inside.number]
    found = fields(model, inside.content, inside.end)
    return next(model[f.content : f.end] for f in found if f.number == wanted)
