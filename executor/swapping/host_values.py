"""The values that live across cuts, in memory of ours at offsets that do not change."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from math import prod
from typing import Any

import numpy as np

from swapnet.executor.planning.layout import is_placed, lay_out_values
from swapnet.executor.swapping.arena import Arena, new_array
from swapnet.manifest import Manifest
from swapnet.tensors import Array, numpy_dtype

__all__ = ["Values"]


class Values:
    """Host memory for all values of known size; see `ValueStore`.

    Parameters
    ----------
    manifest
        The engine.
    as_array
        `Backend.array`: model outputs of unknown size are values of the backend's.
    """

    def __init__(self, manifest: Manifest, as_array: Callable[[Any], Array]) -> None:
        self._manifest = manifest
        self._as_array = as_array
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
        tensor = self._manifest.tensors[name]
        shape = [int(dim) for dim in tensor.shape]
        dtype = numpy_dtype(tensor.dtype)
        view = self._arena.view(self._offsets.offsets[name], prod(shape) * dtype.itemsize)
        return np.frombuffer(view, dtype).reshape(shape)

    @contextmanager
    def writing(self, name: str, shape: tuple[int, ...]) -> Iterator[Array]:
        """The value itself."""
        yield self.array(name)

    def begin(self, inputs: Mapping[str, Array]) -> tuple[dict[str, Any], dict[str, Array]]:
        """Arrays for the outputs of known size; see `ValueStore.begin`."""
        outputs = self._manifest.outputs
        results = {t.name: new_array(t) for t in outputs if is_placed(t)}
        results |= {t.name: inputs[t.name].copy() for t in outputs if t.name in inputs}
        return dict(inputs), results

    def finish(self, given: Mapping[str, Any], results: Mapping[str, Array]) -> dict[str, Array]:
        """See `ValueStore.finish`."""
        return {
            t.name: results[t.name] if t.name in results else self._as_array(given[t.name])
            for t in self._manifest.outputs
        }

    def close(self) -> None:
        """Give the memory back; arrays of it must not be used any more."""
        self._arena = Arena(0)
