"""Outputs told apart by their digests; each that is new goes to the parent once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence

import msgspec
import numpy as np

from swapnet.arrays import Array
from swapnet.executor.scenario.messages import Key, Output, Tensor

__all__ = ["HELD", "OutputDigests", "Say", "digest_of", "raw"]

HELD = 2
"""Requests with outputs in memory, at most: one is looked at, one waits for that."""

Say = Callable[[msgspec.Struct, Sequence[Array]], None]
"""Tells the parent a message, and the bytes of arrays after it."""


class OutputDigests:
    """The outputs that the parent has."""

    def __init__(self, known: Iterable[Key], say: Say) -> None:
        self._known = set(known)
        self._say = say

    def take(self, model: int, sample: int, outputs: Mapping[str, Array]) -> str:
        """The digest of outputs, which go to the parent if it does not have them."""
        arrays = {name: np.asarray(array, order="C") for name, array in outputs.items()}
        key = (model, sample, digest_of(arrays))
        if key not in self._known:
            self._known.add(key)
            tensors = (Tensor(name, array.dtype.str, array.shape) for name, array in arrays.items())
            self._say(Output(key, tuple(tensors)), list(arrays.values()))
        return key[2]


def digest_of(arrays: Mapping[str, Array]) -> str:
    """Digest of names, element types, shapes and all bytes."""
    digest = hashlib.sha256()
    for name, array in arrays.items():
        digest.update(f"{name}\0{array.dtype.str}\0{array.shape}\0".encode())
        digest.update(raw(array))
    return digest.hexdigest()[:32]


def raw(array: Array) -> memoryview:
    """The bytes of an array in C order, not copied."""
    return memoryview(array.reshape(-1).view(np.uint8))  # type: ignore[arg-type]
