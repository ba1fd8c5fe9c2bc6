"""A model as ranges and Q/DQ pairs are made for it: folded, named, in a recent operator set."""

from __future__ import annotations

from dataclasses import replace
from itertools import count
from pathlib import Path

import onnx
from onnx import version_converter

from swapnet.builder.importing.source import PROTOBUF_LIMIT_BYTES, SourceModel
from swapnet.builder.rewriting.optimise import Operators, save_optimised
from swapnet.errors import ModelError

__all__ = ["normalise", "opset_of"]

PER_AXIS_OPSET = 13
"""Since this operator set DequantizeLinear takes one scale per channel."""

_TARGET_OPSET = 17


def normalise(source: SourceModel, folder: Path) -> SourceModel:
    """Write the model with constants and normalisation folded, and every operator named.

    Returns
    -------
    SourceModel
        The model in ``folder``, its weights in a file beside it, with the name and hash of
        ``source``. Values keep their names; operators without one are called ``Kind.number``.

    Raises
    ------
    ModelError
        ONNX Runtime refuses the model, or its operator set is too old and can't be converted.
    """
    path = source.path
    if opset_of(source.proto) < PER_AXIS_OPSET:
        path = _converted(source, folder / "converted.onnx")
    written = save_optimised(path, folder, operators=Operators.STANDARD)
    proto = onnx.load_model(written, load_external_data=False)
    _name_operators(proto.graph.node)
    del proto.graph.value_info[:]
    target = folder / "normalised.onnx"
    onnx.save_model(proto, target)
    return replace(source, path=target, proto=proto)


def opset_of(proto: onnx.ModelProto) -> int:
    """Version of ONNX's own operators."""
    return next((o.version for o in proto.opset_import if o.domain in ("", "ai.onnx")), 1)


def _converted(source: SourceModel, target: Path) -> Path:
    version = opset_of(source.proto)
    if source.weights_bytes >= PROTOBUF_LIMIT_BYTES:
        raise ModelError(
            f"{source.path} uses operator set {version}",
            why=f"one scale per channel needs {PER_AXIS_OPSET}, and a model of 2 GiB or more "
            "can't be converted",
            hint=f"export it again with operator set {_TARGET_OPSET}",
        )
    try:
        converted = version_converter.convert_version(onnx.load_model(source.path), _TARGET_OPSET)
    except (RuntimeError, ValueError) as error:
        raise ModelError(
            f"{source.path} uses operator set {version}",
            why=f"one scale per channel needs {PER_AXIS_OPSET}, and it can't be converted: {error}",
            hint=f"export it again with operator set {_TARGET_OPSET}",
        ) from error
    onnx.save_model(converted, target)
    return target


def _name_operators(nodes: list[onnx.NodeProto]) -> None:
    """Give every operator a name that no other has."""
    taken: set[str] = set()
    for node in nodes:
        name = node.name or node.op_type
        fresh = (f"{name}.{i}" for i in count())
        while not node.name or node.name in taken:
            node.name = next(fresh)
        taken.add(node.name)
