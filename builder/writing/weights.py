"""``weights.bin``: extents one after the other, written once and never held whole."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from swapnet.builder.compilers.packing import Packed
from swapnet.builder.importing.graph import Constant
from swapnet.manifest import (
    EXTENT_ALIGNMENT,
    TENSOR_ALIGNMENT,
    WINDOW_ALIGNMENT,
    Extent,
    Weight,
    Window,
)
from swapnet.units import align_up

__all__ = ["StoredExtent", "WeightWriter"]


@dataclass(frozen=True)
class StoredExtent:
    """Place of weights that were written, and their checksum."""

    extent: Extent
    weights: tuple[Weight, ...]
    checksum: str
    windows: tuple[Window, ...] = ()


class WeightWriter:
    """Appends extents to a new file; a context manager.

    Parameters
    ----------
    path
        File to write.
    alignment
        Alignment of extents.
    """

    def __init__(self, path: Path, alignment: int = EXTENT_ALIGNMENT) -> None:
        self._file = path.open("xb")
        self._alignment = alignment
        self.nbytes = 0

    def __enter__(self) -> WeightWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def append(self, constants: Iterable[Constant], packed: Packed | None = None) -> StoredExtent:
        """Write the constants contiguously, then windows, padded to an aligned extent."""
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
        windows: list[Window] = []
        if packed is not None:
            with packed.file.open("rb") as file:
                for window in packed.windows:
                    offset = align_up(self.nbytes, WINDOW_ALIGNMENT)
                    self._write(bytes(offset - self.nbytes), digest)
                    windows.append(Window(window.name, offset, window.nbytes))
                    file.seek(window.offset)
                    for done in range(0, window.nbytes, 1 << 20):
                        self._write(file.read(min(1 << 20, window.nbytes - done)), digest)
        return self._end(start, weights, digest, windows)

    def append_file(self, path: Path) -> StoredExtent:
        """Write a file, padded to an aligned extent."""
        digest = hashlib.sha256()
        start = self.nbytes
        with path.open("rb") as file:
            while piece := file.read(1 << 20):
                self._write(piece, digest)
        return self._end(start, (), digest)

    def _end(
        self,
        start: int,
        weights: Iterable[Weight],
        digest: hashlib._Hash,
        windows: Iterable[Window] = (),
    ) -> StoredExtent:
        end = align_up(self.nbytes, self._alignment)
        self._write(bytes(end - self.nbytes), digest)
        extent = Extent(start, end - start)
        return StoredExtent(extent, tuple(weights), digest.hexdigest(), tuple(windows))

    def _write(self, data: bytes | memoryview, digest: hashlib._Hash) -> None:
        self._file.write(data)
        digest.update(data)
        self.nbytes += len(data)
