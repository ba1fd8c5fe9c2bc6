"""Merge skeletons without the onnx package: ONNX files as protocol-buffer fields.

Concatenating two encoded messages merges them (Protocol Buffers encoding, "Last One Wins":
repeated fields are appended), so consecutive skeletons become one graph by copying fields. The
package `onnx` would take 12 MiB of the executing process.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

__all__ = ["fields", "merge_skeletons"]

_MODEL_GRAPH = 7
_GRAPH_NODE = 1
_GRAPH_NAME = 2
_GRAPH_INITIALIZER = 5
_GRAPH_INPUT = 11
_GRAPH_OUTPUT = 12
_NAME_OF = {_GRAPH_INITIALIZER: 8, _GRAPH_INPUT: 1, _GRAPH_OUTPUT: 1}
"""The field that holds the name, in TensorProto and ValueInfoProto."""


def fields(message: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """Number, payload and whole encoding of each field of a message.

    The payload of a length-delimited field is its content, of any other its encoding.

    Raises
    ------
    ValueError
        The message is cut short or has a wire type that ONNX does not use.
    """
    position = 0
    while position < len(message):
        start = position
        tag, position = _varint(message, position)
        kind = tag & 7
        payload = position
        if kind == 0:
            _, position = _varint(message, position)
        elif kind == 2:
            length, payload = _varint(message, position)
            position = payload + length
        elif kind in (1, 5):
            position += 8 if kind == 1 else 4
        else:
            raise ValueError(f"wire type {kind} at byte {start}")
        if position > len(message):
            raise ValueError(f"{position - len(message)} bytes are missing")
        yield tag >> 3, message[payload:position], message[start:position]


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
        for number, payload, encoded in fields(model):
            if number != _MODEL_GRAPH:
                if index == 0:
                    header.append(encoded)
                continue
            for inner, content, whole in fields(payload):
                if inner == _GRAPH_NODE:
                    nodes.append(whole)
                elif inner == _GRAPH_INITIALIZER:
                    constants.setdefault(_name(inner, content), whole)
                elif inner == _GRAPH_INPUT:
                    name = _name(inner, content)
                    if name not in produced:
                        inputs.setdefault(name, whole)
                elif inner == _GRAPH_OUTPUT:
                    produced[_name(inner, content)] = content
    results = [_field(_GRAPH_OUTPUT, c) for n, c in produced.items() if n.decode() in wanted]
    graph = b"".join(
        [*nodes, _field(_GRAPH_NAME, b"segment"), *constants.values(), *inputs.values(), *results]
    )
    return b"".join([*header, _field(_MODEL_GRAPH, graph)])


def _name(number: int, message: bytes) -> bytes:
    wanted = _NAME_OF[number]
    return next(payload for field, payload, _ in fields(message) if field == wanted)


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if position >= len(data):
            raise ValueError("a number is cut short")
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7


def _field(number: int, payload: bytes) -> bytes:
    out = bytearray()
    for value in (number << 3 | 2, len(payload)):
        while value > 0x7F:
            out.append(value & 0x7F | 0x80)
            value >>= 7
        out.append(value)
    return bytes(out) + payload
