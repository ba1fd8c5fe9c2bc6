"""An ONNX file without the bytes of its weights, which are left where they lie in it."""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import NamedTuple

from swapnet.protobuf import LENGTH, VARINT, Field, encoded, fields, varint
from swapnet.tensors import ELEMENT_BYTES, ONNX_TYPES

__all__ = ["Stripped", "stripped"]

_LEAST_BYTES = 64 << 10
"""Smaller tensors stay in the model."""

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
        except ValueError:
            return None
        finally:
            writing.data.release()
    return Stripped(model, writing.mixed) if writing.found else None


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
        for field in fields(self.data, start, end):
            inner = _INSIDE[kind].get(field.number) if field.wire == LENGTH else None
            if inner == "tensor":
                written = self._tensor(field.content, field.end)
            elif inner and field.end - field.content >= _LEAST_BYTES:
                written = self.message(inner, field.content, field.end)
            else:
                parts.append(bytes(self.data[field.start : field.end]))
                continue
            parts.append(encoded(field.number, written))
        return b"".join(parts)

    def _tensor(self, start: int, end: int) -> bytes:
        found = list(fields(self.data, start, end))
        self.mixed |= any(f.number == _PLACE and self.data[f.content] == 1 for f in found)
        kind = next((varint(self.data, f.content)[0] for f in found if f.number == _TYPE), 0)
        nbytes = prod(self._dims(found)) * _ELEMENT_BYTES.get(kind, 0)  # 0: other types
        large = [
            f
            for f in found
            if f.end - f.content >= _LEAST_BYTES
            and (f.number == _RAW or _PACKED.get(f.number) == kind)
            and nbytes in (0, f.end - f.content)
        ]
        if len(large) != 1:
            return bytes(self.data[start:end])
        self.found += 1
        (bulk,) = large
        kept = [bytes(self.data[f.start : f.end]) for f in found if f is not bulk]
        length = bulk.end - bulk.content
        place = {"location": self.name, "offset": str(bulk.content), "length": str(length)}
        kept += [
            encoded(_EXTERNAL, encoded(1, key.encode()) + encoded(2, value.encode()))
            for key, value in place.items()
        ]
        return b"".join([*kept, bytes([_PLACE << 3 | VARINT, 1])])

    def _dims(self, found: list[Field]) -> Iterator[int]:
        """Dimensions, packed or not."""
        for field in found:
            if field.number == _DIMS:
                at = field.content
                while at < field.end:
                    size, at = varint(self.data, at)
                    yield size
