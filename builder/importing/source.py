"""The ONNX file: opened, recognised, refused with a reason."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from swapnet.builder.importing.external_data import ExternalData, check_tensors, stored_bytes
from swapnet.builder.importing.folder import check_not_merged, model_in, tokenizer_files
from swapnet.builder.importing.gguf.file import is_gguf
from swapnet.builder.importing.graph import bodies
from swapnet.builder.importing.stripped import stripped
from swapnet.errors import InputError, ModelError

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
    "random_reasons",
]

PROTOBUF_LIMIT_BYTES = 2 << 30
"""A model file is smaller; its weights may lie in others beside it."""

OPSETS = range(7, 27)
"""Versions of the default operator set that are read."""

_RANDOM = (
    *("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"),
    *("Multinomial", "Bernoulli"),
)

_ORIGINAL = "give the original with --model, or leave --compare out"


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
    data: ExternalData
    """External data of the file that ``sha256`` is of."""
    tokenizer: tuple[Path, ...] = ()
    """Files of a language model's tokenizer."""
    origin: Path | None = None
    """The file that it was imported from; None where it is ``path``."""

    @property
    def read_bytes(self) -> int:
        """Bytes of weights, counted with each operator that reads them; tables of rows once."""
        graph = self.proto.graph
        readers = Counter(n for node in graph.node if node.op_type != "Gather" for n in node.input)
        return self.weights_bytes + sum(
            (readers[tensor.name] - 1) * stored_bytes(tensor.dims, tensor.data_type)
            for tensor in graph.initializer
            if readers[tensor.name] > 1
        )

    def has_operator(self, kind: str) -> bool:
        """Whether its graph has an operator of this type, outside of bodies."""
        return any(node.op_type == kind for node in self.proto.graph.node)

    @property
    def identity(self) -> str:
        """SHA-256 of the file, and of its external data where it has any."""
        if not self.data.parts:
            return self.sha256
        return hashlib.sha256(f"{self.sha256} {self.data.sha256}".encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def original_model(manifest: Manifest, given: Path | None = None) -> Path:
    """The file that an engine was built from, checked by its SHA-256 and that of its data.

    ``given`` is its path now; None for that of the build.

    Raises
    ------
    InputError
        There is no such file, or it or its external data is another one.
    ModelError
        Its external data is missing.
    """
    path = given or Path(manifest.source.path)
    if is_gguf(path):
        raise InputError(
            f"{path} is not what the engine was built from",
            why="it is a GGUF file, and the engine was built from the model that is made of it",
            hint=f"swapnet import {path} -o FOLDER, and give --model FOLDER/model.onnx",
        )
    found = file_sha256(path) if path.is_file() else None
    if found != manifest.source.sha256:
        raise InputError(
            f"{path} is not what the engine was built from",
            why=f"its SHA-256 is {found[:12]}…, it should be {manifest.source.sha256[:12]}…"
            if found
            else "there is no such file",
            hint=_ORIGINAL,
        )
    # Without external data at the build there is none now: the file is the same.
    data = open_source(path).data if manifest.source.data_sha256 else ExternalData()
    if data.sha256 != manifest.source.data_sha256:
        raise InputError(
            f"{path} has other weights than the engine that was built from it",
            why=f"the SHA-256 of its data in {', '.join(file.name for file in data.files)} is "
            f"{data.sha256[:12]}…, it was {manifest.source.data_sha256[:12]}…",
            hint=f"build the engine again, or {_ORIGINAL}",
        )
    return path


def open_source(path: Path, origin: Path | None = None) -> SourceModel:
    """Read an ONNX file without its weights: large tensors in it become external data of it.

    Parameters
    ----------
    path
        The file, or the folder that an exporter of language models wrote (`model_in`).
    origin
        The file that it was imported from; None or ``path`` where it was not.

    Raises
    ------
    ModelError
        The file is missing or damaged, external data is missing, invalid or elsewhere
        (`check_tensors`), or the operator set is not supported.
    """
    import onnx
    from google.protobuf.message import DecodeError

    origin = None if origin == path else origin
    tokenizer: tuple[Path, ...] = ()
    is_folder = path.is_dir()
    if is_folder:
        path, tokenizer = model_in(path), tokenizer_files(path)
    if not os.path.isfile(path):
        raise ModelError(
            f"{path} can't be read",
            why="there is no such file",
            hint="give the path of an .onnx file",
        )
    if is_gguf(path):
        raise ModelError(
            f"{path} is not an ONNX file",
            why="it is a GGUF file, which swapnet build takes",
            hint=f"swapnet import {path} -o FOLDER, and give that folder",
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
    if is_folder:
        check_not_merged(path, proto)
    _check_opset(path, proto)
    weights_bytes, data = check_tensors(path, proto)
    name = (origin or path).stem
    sha256 = file_sha256(path)
    return SourceModel(path, proto, sha256, weights_bytes, name, data, tokenizer, origin)


def random_reasons(source: SourceModel) -> Iterator[str]:
    """The operators of a model that give other values in each inference, in words."""
    proto = source.proto
    names = [
        f"{node.op_type} {node.name or node.output[0]!r}"
        for nodes in (proto.graph.node, *(function.node for function in proto.functions))
        for node in _with_inner(nodes)
        if node.op_type in _RANDOM or (node.op_type == "Dropout" and len(node.input) > 2)
    ]
    if names:
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        yield (
            f"the model has random operators, which may differ in each inference: "
            f"{', '.join(names[:3])}{more}"
        )


def _with_inner(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    for node in nodes:
        yield node
        for body in bodies(node):
            yield from _with_inner(body.node)


def check_apart(source: SourceModel, *targets: Path) -> None:
    """Refuse to write over the model, its weights, or one file twice.

    Raises
    ------
    InputError
        Two of the files are one.
    """
    taken = {os.path.realpath(path) for path in (source.path, *source.data.files)}
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
