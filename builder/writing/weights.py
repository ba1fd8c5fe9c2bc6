"""``weights.bin``: extents one after the other, written once and never held whole."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from swapnet.builder.importing.graph import Constant
from swapnet.manifest import EXTENT_ALIGNMENT, TENSOR_ALIGNMENT, Extent, Weight
from swapnet.units import align_up

__all__ = ["StoredExtent", "WeightWriter"]


@dataclass(frozen=True)
class StoredExtent:
    """Place of weights that were written, and their checksum."""

    extent: Extent
    weights: tuple[Weight, ...]
    checksum: str


class WeightWriter:
    """Appends extents to a new file; a context manager."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("xb")
        self.nbytes = 0

    def __enter__(self) -> WeightWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def append(self, constants: Iterable[Constant]) -> StoredExtent:
        """Write the constants contiguously, padded to an aligned extent."""
        digest = hashlib.sha256()
        start = self.nbytes
        weights: list[Weight] = []
        for constant in constants:
            offset = align_up(self.nbytes, TENSOR_ALIGNMENT)
            self._write(bytes(offset - self.nbytes), digest)
            self._write(constant.bytes().data, digest)
            weights.append(
                Weight(constant.name, constant.dtype, constant.shape, offset, constant.nbytes)
            )
        return self._end(start, weights, digest)

    def append_file(self, path: Path) -> StoredExtent:
        """Write a file, padded to an aligned extent."""
        digest = hashlib.sha256()
        start = self.nbytes
        with path.open("rb") as file:
            while piece := file.read(1 << 20):
                self._write(piece, digest)
        return self._end(start, (), digest)

    def _end(self, start: int, weights: Iterable[Weight], digest: hashlib._Hash) -> StoredExtent:
        end = align_up(self.nbytes, EXTENT_ALIGNMENT)
        self._write(bytes(end - self.nbytes), digest)
        return StoredExtent(Extent(start, end - start), tuple(weights), digest.hexdigest())

    def _write(self, data: bytes | memoryview, digest: hashlib._Hash) -> None:
        self._file.write(data)
        digest.update(data)
        self.nbytes += len(data)
