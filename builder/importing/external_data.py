"""Bytes of a model's tensors: where they lie, checked before any file of weights is opened."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path

import onnx

from swapnet.builder.importing.graph import bodies
from swapnet.errors import ModelError
from swapnet.tensors import ELEMENT_BYTES, ONNX_TYPES

__all__ = ["ExternalData", "Part", "check_tensors", "stored_bytes", "stored_tensors"]

_ELEMENT_BITS = {
    **{number: 8 * ELEMENT_BYTES[name] for name, number in ONNX_TYPES.items()},
    **dict.fromkeys((17, 18, 19, 20, 24), 8),
    **dict.fromkeys((21, 22, 23), 4),
    **dict.fromkeys((25, 26), 2),
}
"""Bits by ``TensorProto.DataType``: what can be swapped, then float8, int4, float4 and int2."""

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}

_EXPORT = "export the model again, or fetch it again if it was changed on its way"


@dataclass(frozen=True, order=True)
class Part:
    """Bytes ``start`` to ``end`` of a file."""

    file: Path
    start: int
    end: int


@dataclass(frozen=True)
class ExternalData:
    """The parts of files beside a model that its tensors are stored in: sorted, apart."""

    parts: tuple[Part, ...] = ()

    @staticmethod
    def of(parts: Iterable[Part]) -> ExternalData:
        """Parts in any order; those that overlap or touch are joined."""
        joined: list[Part] = []
        for part in sorted(parts):
            last = joined[-1] if joined else None
            if last is not None and last.file == part.file and part.start <= last.end:
                joined[-1] = Part(part.file, last.start, max(last.end, part.end))
            else:
                joined.append(part)
        return ExternalData(tuple(joined))

    @property
    def files(self) -> tuple[Path, ...]:
        """Each file once."""
        return tuple(dict.fromkeys(part.file for part in self.parts))

    @cached_property
    def sha256(self) -> str:
        """Hexadecimal SHA-256 of all parts, read when it is first asked for; empty without any."""
        digest = hashlib.sha256()
        for part in self.parts:
            digest.update(f"{part.file.name} {part.start} {part.end}\n".encode())
            with part.file.open("rb") as file:
                file.seek(part.start)
                left = part.end - part.start
                while left and (piece := file.read(min(left, 1 << 20))):
                    digest.update(piece)
                    left -= len(piece)
        return digest.hexdigest() if self.parts else ""


def check_tensors(path: Path, proto: onnx.ModelProto) -> tuple[int, ExternalData]:
    """Check where the tensors of a model are stored, without opening a file.

    Parameters
    ----------
    path
        The model's file.
    proto
        Its content, without external data.

    Returns
    -------
    tuple
        Bytes of all stored tensors, those of sparse ones as dense, and the external data in other
        files than the model's own.

    Raises
    ------
    ModelError
        A tensor has other bytes than its shape takes, or its file is missing, too short, no regular
        file, or outside of the model's folder.
    """
    total = 0
    parts: list[Part] = []
    own = os.path.realpath(path)
    folders = {os.path.realpath(path.parent), os.path.dirname(own)}
    for tensor, dims in stored_tensors(proto):
        if min(dims, default=0) < 0:
            raise _invalid(path, tensor, f"has the shape {'x'.join(map(str, dims))}")
        total += stored_bytes(dims, tensor.data_type)
        nbytes = stored_bytes(tensor.dims, tensor.data_type)
        if tensor.data_location == tensor.EXTERNAL:
            part = _part(path, folders, tensor, nbytes)
            if os.path.realpath(part.file) != own:
                parts.append(part)
        elif tensor.HasField("raw_data") and nbytes not in (0, len(tensor.raw_data)):
            stored = f"has {len(tensor.raw_data)} bytes, its type and shape take {nbytes}"
            raise _invalid(path, tensor, stored)
    return total, ExternalData.of(parts)


def _part(path: Path, folders: Collection[str], tensor: onnx.TensorProto, nbytes: int) -> Part:
    """The bytes of a tensor with external data.

    ``folders`` are those of the model and of the file that it links to: Hugging Face's cache has
    links to models and their weights in one folder of files.
    """
    fields = {entry.key: entry.value for entry in tensor.external_data}
    location = fields.get("location", "")
    start = _number(path, tensor, "offset", fields)
    length = _number(path, tensor, "length", fields)
    if length not in (0, nbytes) and nbytes:
        stored = f"has a length of {length} bytes, its type and shape take {nbytes}"
        raise _invalid(path, tensor, stored)
    if not location or "\0" in location:
        raise _invalid(path, tensor, f"is in a file with the name {location!r}")
    file = path.parent / location
    found = os.path.realpath(file)
    if os.path.isabs(location) or not any(_is_inside(found, folder) for folder in folders):
        raise ModelError(
            f"{path} has weights outside of its folder",
            why=f"tensor {tensor.name!r} is in {location!r}"
            + (", an absolute path" if os.path.isabs(location) else f", which is {found}"),
            hint="copy that file into the model's folder, and name it in the model without a path",
        )
    return _within(path, tensor, Part(file, start, start + (length or nbytes)))


def _within(path: Path, tensor: onnx.TensorProto, part: Part) -> Part:
    """The part, checked to lie in its file."""
    file = part.file
    try:
        status = os.stat(file)
    except OSError as error:
        raise ModelError(
            f"{path} lacks weights",
            why=f"tensor {tensor.name!r} is in {file.name}, which can't be read: {error.strerror}",
            hint=f"put {file.name} beside the model",
        ) from error
    if not stat.S_ISREG(status.st_mode):
        kind = _KINDS.get(stat.S_IFMT(status.st_mode), "of another kind")
        raise ModelError(
            f"{path} has weights in what is not a file",
            why=f"tensor {tensor.name!r} is in {str(file)!r}, which is {kind}",
            hint="put the file of the weights there",
        )
    if status.st_size < part.end:
        raise ModelError(
            f"{path} lacks weights",
            why=f"tensor {tensor.name!r} ends at byte {part.end} of "
            f"{file.name}, which has {status.st_size} bytes",
            hint=f"put the whole {file.name} beside the model",
        )
    return part


def _number(path: Path, tensor: onnx.TensorProto, key: str, fields: dict[str, str]) -> int:
    text = fields.get(key, "0")
    # ONNX Runtime reads 64 bits, without signs and spaces.
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise _invalid(path, tensor, f"has the {key} {text!r}, which is not a number from 0 on")
    return int(text)


def _is_inside(file: str, folder: str) -> bool:
    return os.path.commonpath((file, folder)) == folder


def _invalid(path: Path, tensor: onnx.TensorProto, fault: str) -> ModelError:
    return ModelError(
        f"{path} has a tensor that can't be read", why=f"{tensor.name!r} {fault}", hint=_EXPORT
    )


def stored_bytes(dims: Iterable[int], data_type: int) -> int:
    """Bytes of a tensor of a ``TensorProto.DataType``; 0 where they are not known."""
    return (prod(dims) * _ELEMENT_BITS.get(data_type, 0) + 7) // 8


def stored_tensors(
    proto: onnx.ModelProto,
) -> Iterator[tuple[onnx.TensorProto, Sequence[int]]]:
    """Initialisers and constants with their dense dimensions, in bodies and functions too."""
    yield from _tensors_of_graph(proto.graph)
    for function in proto.functions:
        yield from _tensors_of_nodes(function.node)


def _tensors_of_graph(
    graph: onnx.GraphProto,
) -> Iterator[tuple[onnx.TensorProto, Sequence[int]]]:
    yield from ((tensor, tensor.dims) for tensor in graph.initializer)
    yield from ((sparse.values, sparse.dims) for sparse in graph.sparse_initializer)
    yield from _tensors_of_nodes(graph.node)


def _tensors_of_nodes(
    nodes: Iterable[onnx.NodeProto],
) -> Iterator[tuple[onnx.TensorProto, Sequence[int]]]:
    for node in nodes:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t, attribute.t.dims
            if attribute.HasField("sparse_tensor"):
                yield attribute.sparse_tensor.values, attribute.sparse_tensor.dims
        for body in bodies(node):
            yield from _tensors_of_graph(body)
