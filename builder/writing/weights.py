"""``weights.bin``: extents one after the other, written once and never held whole."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from swapnet.builder.compilers.packing import Packed
from swapnet.builder.importing.graph import Constant
from swapnet.builder.writing.codecs import PLAIN, Coded
from swapnet.executor.backends.windows import window_alignment
from swapnet.executor.swapping.codecs import narrowed
from swapnet.manifest import (
    EXTENT_ALIGNMENT,
    TENSOR_ALIGNMENT,
    Extent,
    Weight,
    Window,
)
from swapnet.units import align_up

__all__ = ["StoredExtent", "WeightWriter"]

_PIECE_BYTES = 1 << 20


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
        Alignment of extents in the file.
    coded
        Any extent has a codec: in memory, extents and their parts are multiples of twice that.
    """

    def __init__(
        self, path: Path, alignment: int = EXTENT_ALIGNMENT, *, coded: bool = False
    ) -> None:
        self._file = path.open("xb")
        self._alignment = 2 * alignment if coded else alignment
        self.nbytes = 0

    def __enter__(self) -> WeightWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def append(
        self,
        constants: Sequence[Constant],
        packed: Packed | None = None,
        coded: Coded = PLAIN,
    ) -> StoredExtent:
        """Write plain constants contiguously, then windows, then coded ones: an aligned extent."""
        digest = hashlib.sha256()
        start = self.nbytes
        weights: list[Weight] = []
        for constant in (c for c in constants if c.name not in coded.names):
            offset = align_up(self.nbytes, TENSOR_ALIGNMENT)
            self._write(bytes(offset - self.nbytes), digest)
            self._write(constant.bytes().data, digest)
            weights.append(_weight(constant, offset))
        windows: list[Window] = []
        if packed is not None:
            with packed.file.open("rb") as file:
                for window in packed.windows:
                    offset = align_up(self.nbytes, window_alignment())
                    self._write(bytes(offset - self.nbytes), digest)
                    windows.append(Window(window.name, offset, window.nbytes))
                    file.seek(window.offset)
                    for done in range(0, window.nbytes, _PIECE_BYTES):
                        self._write(file.read(min(_PIECE_BYTES, window.nbytes - done)), digest)
        stored = self._end(start, weights, digest, windows)
        return self._with_coded(stored, constants, coded, digest) if coded.names else stored

    def _with_coded(
        self,
        plain: StoredExtent,
        constants: Sequence[Constant],
        coded: Coded,
        digest: hashlib._Hash,
    ) -> StoredExtent:
        """Write the coded constants; their offsets count as if they were plain."""
        weights = list(plain.weights)
        begin = end = self.nbytes
        for constant in (c for c in constants if c.name in coded.names):
            offset = align_up(end, TENSOR_ALIGNMENT)
            self._write(bytes((offset - end) // 2), digest)
            values = constant.bytes()
            for piece in range(0, len(values), _PIECE_BYTES):
                stored = narrowed(values[piece : piece + _PIECE_BYTES], coded.codec)
                if stored is None:
                    raise ValueError(f"{constant.name!r} does not fit {coded.codec}")
                self._write(stored.data, digest)
            weights.append(_weight(constant, offset))
            end = offset + constant.nbytes
        nbytes = align_up(end - begin, self._alignment)
        self._write(bytes(begin + nbytes // 2 - self.nbytes), digest)
        extent = Extent(
            plain.extent.offset,
            plain.extent.nbytes + nbytes,
            coded.codec,
            plain.extent.nbytes + nbytes // 2,
        )
        return StoredExtent(extent, tuple(weights), digest.hexdigest(), plain.windows)

    def append_file(self, path: Path) -> StoredExtent:
        """Write a file, padded to an aligned extent."""
        digest = hashlib.sha256()
        start = self.nbytes
        with path.open("rb") as file:
            while piece := file.read(_PIECE_BYTES):
                self._write(piece, digest)
        return self._end(start, (), digest)

    def _end(
        self,
        start: int,
        weights: Iterable[Weight],
        digest: hashlib._Hash,
        windows: Iterable[Window] = (),
    ) -> StoredExtent:
        extent = Extent(start, align_up(self.nbytes - start, self._alignment))
        self._write(bytes(extent.end - self.nbytes), digest)
        return StoredExtent(extent, tuple(weights), digest.hexdigest(), tuple(windows))

    def _write(self, data: bytes | memoryview, digest: hashlib._Hash) -> None:
        self._file.write(data)
        digest.update(data)
        self.nbytes += len(data)


def _weight(constant: Constant, offset: int) -> Weight:
    return Weight(constant.name, constant.dtype, constant.shape, offset, constant.nbytes)
