"""The ONNX file: opened, recognised, refused with a reason."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

from swapnet.builder.importing.graph import bodies
from swapnet.builder.importing.stripped import stripped
from swapnet.errors import InputError, ModelError
from swapnet.tensors import ELEMENT_BYTES, ONNX_TYPES

if TYPE_CHECKING:
    import onnx

    from swapnet.manifest import Manifest

__all__ = [
    "OPSETS",
    "PROTOBUF_LIMIT_BYTES",
    "SourceModel",
    "check_apart",
    "file_sha256",
    "open_source",
    "original_model",
    "stored_bytes",
    "stored_tensors",
]

PROTOBUF_LIMIT_BYTES = 2 << 30
"""A model file is smaller; its weights may lie in others beside it."""

OPSETS = range(7, 27)
"""Versions of the default operator set that are read."""


_ELEMENT_BITS = {
    **{number: 8 * ELEMENT_BYTES[name] for name, number in ONNX_TYPES.items()},
    **dict.fromkeys((17, 18, 19, 20, 24), 8),
    **dict.fromkeys((21, 22, 23), 4),
    **dict.fromkeys((25, 26), 2),
}
"""Bits by ``TensorProto.DataType``: what can be swapped, then float8, int4, float4 and int2."""


@dataclass(frozen=True)
class SourceModel:
    """An ONNX file with its weights left on disk, as external data."""

    path: Path
    proto: onnx.ModelProto
    sha256: str
    weights_bytes: int
    """Bytes of all stored tensors, each counted once."""
    name: str
    """The file's stem."""


def file_sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def original_model(manifest: Manifest, given: Path | None = None) -> Path:
    """The file that an engine was built from, checked by its SHA-256.

    ``given`` is its path now; None for that of the build.

    Raises
    ------
    InputError
        There is no such file, or it is another one.
    """
    path = given or Path(manifest.source.path)
    found = file_sha256(path) if path.is_file() else None
    if found != manifest.source.sha256:
        raise InputError(
            f"{path} is not what the engine was built from",
            why=f"its SHA-256 is {found[:12]}…, it should be {manifest.source.sha256[:12]}…"
            if found
            else "there is no such file",
            hint="give the original with --model, or leave --compare out",
        )
    return path


def open_source(path: Path) -> SourceModel:
    """Read an ONNX file without its weights: large tensors in it become external data of it.

    Raises
    ------
    ModelError
        The file is missing or damaged, external data is missing or too short, or the operator set
        is not supported.
    """
    import onnx
    from google.protobuf.message import DecodeError

    if not os.path.isfile(path):
        raise ModelError(
            f"{path} can't be read",
            why="it is a folder" if os.path.isdir(path) else "there is no such file",
            hint="give the path of an .onnx file",
        )
    try:
        without_weights = stripped(path)
        proto = (
            onnx.load_model_from_string(without_weights.model)
            if without_weights
            else onnx.load_model(path, load_external_data=False)
        )
    except (DecodeError, ValueError, OSError) as error:
        raise ModelError(
            f"{path} is not a readable ONNX file",
            why=f"{path.stat().st_size} bytes that are not a model: {error}",
            hint="export it again, or fetch it again if the download was cut short",
        ) from error
    if proto.graph.output and not proto.graph.node:
        raise ModelError(
            f"{path} has no operators",
            why="its outputs are inputs or constants: there is nothing to execute",
            hint="use them without a model, or export one that computes something",
        )
    if proto.graph.node and not proto.graph.output:
        raise ModelError(
            f"{path} has no outputs",
            why=f"none of the values of its {len(proto.graph.node)} operators is in graph.output",
            hint="add those that are wanted to model.graph.output",
        )
    if not proto.graph.output:
        raise ModelError(
            f"{path} is not a readable ONNX file",
            why=f"its {path.stat().st_size} bytes hold {len(proto.graph.node)} operators and "
            f"{len(proto.graph.output)} outputs",
            hint="export it again, or fetch it again if the download was cut short",
        )
    _check_opset(path, proto)
    weights_bytes = _check_external_data(path, proto)
    return SourceModel(path, proto, file_sha256(path), weights_bytes, path.stem)


def check_apart(source: SourceModel, *targets: Path) -> None:
    """Refuse to write over the model, its weights, or one file twice.

    Raises
    ------
    InputError
        Two of the files are one.
    """
    from onnx.external_data_helper import ExternalDataInfo, uses_external_data

    tensors = source.proto.graph.initializer
    read = {ExternalDataInfo(t).location for t in tensors if uses_external_data(t)}
    folder = source.path.parent
    taken = {os.path.realpath(path) for path in (source.path, *(folder / n for n in read))}
    for target in targets:
        for place in (target, target.with_name(f"{target.name}.data")):
            if os.path.realpath(place) in taken:
                raise InputError(
                    f"{place} can't be written",
                    why="the model or another output is that file",
                    hint="choose another name for it",
                )
        taken.add(os.path.realpath(target))


def _check_opset(path: Path, proto: onnx.ModelProto) -> None:
    imported: dict[str, set[int]] = {}
    for entry in proto.opset_import:
        imported.setdefault(entry.domain or "ai.onnx", set()).add(entry.version)
    for domain, versions in imported.items():
        if len(versions) > 1:
            raise ModelError(
                f"{path} imports {len(versions)} versions of the operator set {domain}",
                why=f"they are {' and '.join(map(str, sorted(versions)))}, one is allowed",
                hint="remove all but the one that it was exported with from model.opset_import",
            )
    for version in imported.get("ai.onnx", set()) - set(OPSETS):
        raise ModelError(
            f"{path} uses operator set {version}",
            why=f"sets {OPSETS.start} to {OPSETS.stop - 1} are read",
            hint="convert it with onnx.version_converter",
        )


def _check_external_data(path: Path, proto: onnx.ModelProto) -> int:
    """Bytes of all stored tensors; those of sparse ones as dense."""
    from onnx.external_data_helper import ExternalDataInfo, uses_external_data

    total = 0
    for tensor, dims in stored_tensors(proto.graph):
        total += stored_bytes(dims, tensor.data_type)
        if not uses_external_data(tensor):
            continue
        info = ExternalDataInfo(tensor)
        end = (info.offset or 0) + stored_bytes(tensor.dims, tensor.data_type)
        file = path.parent / info.location
        found = file.stat().st_size if file.is_file() else 0
        if found < end:
            raise ModelError(
                f"{path} lacks weights",
                why=f"tensor {tensor.name!r} ends at byte {end} of "
                f"{file.name}, which has {found} bytes",
                hint=f"put the whole {file.name} beside the model",
            )
    return total


def stored_bytes(dims: Iterable[int], data_type: int) -> int:
    """Bytes of a tensor of a ``TensorProto.DataType``; 0 where they are not known."""
    return (prod(dims) * _ELEMENT_BITS.get(data_type, 0) + 7) // 8


def stored_tensors(
    graph: onnx.GraphProto,
) -> Iterator[tuple[onnx.TensorProto, Sequence[int]]]:
    """Initialisers and constants, in bodies too, with their dense dimensions."""
    yield from ((tensor, tensor.dims) for tensor in graph.initializer)
    yield from ((sparse.values, sparse.dims) for sparse in graph.sparse_initializer)
    for node in graph.node:
        if node.op_type == "Constant":
            yield from ((a.t, a.t.dims) for a in node.attribute if a.name == "value")
            sparse_values = (a.sparse_tensor for a in node.attribute if a.name == "sparse_value")
            yield from ((sparse.values, sparse.dims) for sparse in sparse_values)
        for body in bodies(node):
            yield from stored_tensors(body)
