"""The values that live across cuts, in memory of ours at offsets that do not change."""

from __future__ import annotations

from math import prod

import numpy as np

from swapnet.executor.arena import Arena
from swapnet.executor.backends.base import Array
from swapnet.executor.layout import lay_out_values
from swapnet.manifest import Manifest
from swapnet.tensors import numpy_dtype

__all__ = ["Values"]


class Values:
    """Memory for all values of known size.

    Parameters
    ----------
    manifest
        The engine.
    """

    def __init__(self, manifest: Manifest) -> None:
        self._tensors = manifest.tensors
        self._offsets = lay_out_values(manifest)
        self._arena = Arena(self._offsets.nbytes)

    @property
    def addresses(self) -> dict[str, int]:
        """Of each placed value."""
        start = self._arena.address
        return {name: start + offset for name, offset in self._offsets.offsets.items()}

    def __contains__(self, name: str) -> bool:
        return name in self._offsets.offsets

    def array(self, name: str) -> Array:
        """A placed value; shares its memory."""
        tensor = self._tensors[name]
        shape = [int(dim) for dim in tensor.shape]
        dtype = numpy_dtype(tensor.dtype)
        view = self._arena.view(self._offsets.offsets[name], prod(shape) * dtype.itemsize)
        return np.frombuffer(view, dtype).reshape(shape)

    def close(self) -> None:
        """Give the memory back; arrays of it must not be used any more."""
        self._arena = Arena(0)
