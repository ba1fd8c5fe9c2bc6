"""An ONNX file without the bytes of its weights, which are left where they lie in it."""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import NamedTuple

from swapnet.tensors import ELEMENT_BYTES, ONNX_TYPES

__all__ = ["Stripped", "stripped"]

_LEAST_BYTES = 64 << 10
"""Smaller tensors stay in the model."""

_VARINT, _EIGHT, _LENGTH, _FOUR = 0, 1, 2, 5
"""Wire types of protobuf."""

_INSIDE: Mapping[str, Mapping[int, str]] = {
    "model": {7: "graph"},
    "graph": {1: "node", 5: "tensor"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 11: "graph"},
}
"""Messages that hold tensors, by the number of their field: onnx.proto never changes numbers."""

_DIMS, _TYPE, _FLOATS, _RAW, _DOUBLES, _EXTERNAL, _PLACE = 1, 2, 4, 9, 10, 13, 14
"""Fields of ``TensorProto``."""

_ELEMENT_BYTES = {number: ELEMENT_BYTES[name] for name, number in ONNX_TYPES.items()}
_PACKED = {_FLOATS: ONNX_TYPES["float32"], _DOUBLES: ONNX_TYPES["float64"]}
"""Element types of fields that hold the same bytes as `_RAW`, where they are packed."""


class Stripped(NamedTuple):
    """A model that reads its large tensors from the file that it was in.

    ``mixed`` says that it has weights in other files too.
    """

    model: bytes
    mixed: bool


def stripped(path: Path) -> Stripped | None:
    """Read a model without its large tensors, which become external data of the same file.

    No more of the file is read than what is returned.

    Returns
    -------
    Stripped or None
        None where the file has no large tensor, or is no model.

    Raises
    ------
    OSError
        The file can't be read.
    """
    if path.stat().st_size < _LEAST_BYTES:
        return None
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        writing = _Writing(memoryview(data), path.name)
        try:
            model = writing.message("model", 0, len(data))
        except (IndexError, ValueError):
            return None
        finally:
            writing.data.release()
    return Stripped(model, writing.mixed) if writing.found else None


class _Field(NamedTuple):
    """A field of a message: ``start`` is that of its key, ``content`` that of its value."""

    number: int
    wire: int
    start: int
    content: int
    end: int


@dataclass
class _Writing:
    """A copy on its way; ``found`` counts tensors that were left out."""

    data: memoryview
    name: str
    found: int = 0
    mixed: bool = False

    def message(self, kind: str, start: int, end: int) -> bytes:
        """A message of which inner tensors are left out."""
        parts: list[bytes] = []
        for field in self._fields(start, end):
            inner = _INSIDE[kind].get(field.number) if field.wire == _LENGTH else None
            if inner == "tensor":
                written = self._tensor(field.content, field.end)
            elif inner and field.end - field.content >= _LEAST_BYTES:
                written = self.message(inner, field.content, field.end)
            else:
                parts.append(bytes(self.data[field.start : field.end]))
                continue
            parts.append(_field(field.number, written))
        return b"".join(parts)

    def _tensor(self, start: int, end: int) -> bytes:
        fields = list(self._fields(start, end))
        self.mixed |= any(f.number == _PLACE and self.data[f.content] == 1 for f in fields)
        kind = next((self._varint(f.content)[0] for f in fields if f.number == _TYPE), 0)
        nbytes = prod(self._dims(fields)) * _ELEMENT_BYTES.get(kind, 0)  # 0: other types
        large = [
            f
            for f in fields
            if f.end - f.content >= _LEAST_BYTES
            and (f.number == _RAW or _PACKED.get(f.number) == kind)
            and nbytes in (0, f.end - f.content)
        ]
        if len(large) != 1:
            return bytes(self.data[start:end])
        self.found += 1
        (bulk,) = large
        kept = [bytes(self.data[f.start : f.end]) for f in fields if f is not bulk]
        length = bulk.end - bulk.content
        place = {"location": self.name, "offset": str(bulk.content), "length": str(length)}
        kept += [
            _field(_EXTERNAL, _field(1, key.encode()) + _field(2, value.encode()))
            for key, value in place.items()
        ]
        return b"".join([*kept, bytes([_PLACE << 3 | _VARINT, 1])])

    def _dims(self, fields: list[_Field]) -> Iterator[int]:
        """Dimensions, packed or not."""
        for field in fields:
            if field.number == _DIMS:
                at = field.content
                while at < field.end:
                    size, at = self._varint(at)
                    yield size

    def _fields(self, start: int, end: int) -> Iterator[_Field]:
        while start < end:
            key, content = self._varint(start)
            wire = key & 7
            if wire == _VARINT:
                stop = self._varint(content)[1]
            elif wire == _LENGTH:
                nbytes, content = self._varint(content)
                stop = content + nbytes
            elif wire in (_EIGHT, _FOUR):
                stop = content + (8 if wire == _EIGHT else 4)
            else:
                raise ValueError(f"wire type {wire}")
            if stop > end:
                raise ValueError("a field ends behind its message")
            yield _Field(key >> 3, wire, start, content, stop)
            start = stop

    def _varint(self, at: int) -> tuple[int, int]:
        """A number and where it ends."""
        value = 0
        for shift in range(0, 70, 7):
            byte = self.data[at]
            at += 1
            value |= (byte & 127) << shift
            if byte < 128:
                return value, at
        raise ValueError("a number has more than ten bytes")


def _field(number: int, content: bytes) -> bytes:
    """A field of bytes, with its key and length."""
    return b"".join([*map(_number, (number << 3 | _LENGTH, len(content))), content])


def _number(value: int) -> bytes:
    written = bytearray()
    while value > 127:
        written.append(value & 127 | 128)
        value >>= 7
    written.append(value)
    return bytes(written)
