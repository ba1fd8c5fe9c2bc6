"""Tensors out of a checkpoint that PyTorch before 1.6 wrote, without PyTorch.

It is read for models that are published so, in a file whose hash is known.
"""

from __future__ import annotations

import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

__all__ = ["read_checkpoint"]

_KINDS = {"FloatStorage": np.dtype("<f4"), "LongStorage": np.dtype("<i8")}


class _Tensor(NamedTuple):
    """A view of a storage that follows in the file; offset and strides count elements."""

    storage: tuple[str, np.dtype[Any]]
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _Unpickler(pickle.Unpickler):
    """Knows what tensors need, and refuses all other names."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return lambda *view: _Tensor(*view[:4])
        if module == "torch" and name in _KINDS:
            return _KINDS[name]
        raise pickle.UnpicklingError(f"it names {module}.{name}, which no tensor needs")

    def persistent_load(self, pid: Any) -> tuple[str, np.dtype[Any]]:
        _, kind, key, *_ = pid
        return key, kind


def read_checkpoint(path: Path) -> dict[str, NDArray[np.generic]]:
    """Return the tensors of a state dict by name."""
    with path.open("rb") as file:
        _magic, _protocol, _system, state, keys = (_Unpickler(file).load() for _ in range(5))
        kinds = dict(tensor.storage for tensor in state.values())
        storages = {}
        for key in keys:
            count = int.from_bytes(file.read(8), "little")
            storages[key] = np.frombuffer(file.read(count * kinds[key].itemsize), kinds[key])
    return {
        name: as_strided(storages[key][offset:], shape, [step * kind.itemsize for step in strides])
        for name, ((key, kind), offset, shape, strides) in state.items()
    }
