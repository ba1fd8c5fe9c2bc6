"""Constants of an imported model, written one after the other, a piece at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from swapnet.builder.importing.gguf.blocks import BLOCK_TYPES, BlockType, floats
from swapnet.tensors import ONNX_TYPES
from swapnet.units import align_up

if TYPE_CHECKING:
    import onnx
    from gguf import ReaderTensor

__all__ = ["Weights"]

_PIECE_ELEMENTS = 2 << 20
_ALIGNMENT = 64


class Weights:
    """Appends constants to a file; ``tensors`` say where they lie."""

    def __init__(self, file: IO[bytes], location: str) -> None:
        self.tensors: list[onnx.TensorProto] = []
        self._file = file
        self._location = location

    def add(
        self, name: str, dtype: str, shape: Sequence[int], pieces: Iterable[npt.NDArray[Any]]
    ) -> str:
        """Add a constant from pieces along its first axis; returns its name."""
        from onnx import TensorProto

        offset = align_up(self._file.tell(), _ALIGNMENT)
        self._file.seek(offset)
        length = sum(self._file.write(np.ascontiguousarray(piece).data) for piece in pieces)
        number, external = ONNX_TYPES[dtype], TensorProto.EXTERNAL
        tensor = TensorProto(name=name, data_type=number, dims=shape, data_location=external)
        places = {"location": self._location, "offset": offset, "length": length}
        for key, value in places.items():
            tensor.external_data.add(key=key, value=str(value))
        self.tensors.append(tensor)
        return name

    def matrix(self, tensor: ReaderTensor) -> BlockType | None:
        """Add a matrix once, in blocks where it has any; returns their type."""
        kind = BLOCK_TYPES.get(tensor.tensor_type.name)
        if all(added.name != tensor.name for added in self.tensors):
            if kind is None:
                self.floats(tensor, tensor.name)
            else:
                self._add_blocks(tensor, kind)
        return kind

    def floats(self, tensor: ReaderTensor, name: str) -> str:
        """Add a matrix of any type in float32; returns its name."""
        kind, shape = tensor.tensor_type.name, tensor.shape[::-1].tolist()
        pieces = (floats(tensor.data[part], kind) for part in _parts(*shape))
        return self.add(name, "float32", shape, pieces)

    def _add_blocks(self, tensor: ReaderTensor, kind: BlockType) -> None:
        """Add quants, ``NAME.scales``, and ``NAME.offsets`` with a column for each row."""
        name = tensor.name
        columns, rows = map(int, tensor.shape)
        count = columns // kind.block_size
        scales: list[npt.NDArray[np.float32]] = []
        offsets: list[npt.NDArray[np.float32]] = []

        def quants() -> Iterator[npt.NDArray[np.uint8]]:
            for part in _parts(rows, columns):
                blocks = kind.read(tensor.data[part])
                scales.append(blocks.scales)
                if blocks.offsets is not None:
                    offsets.append(blocks.offsets.T)
                yield blocks.quants

        self.add(name, "uint8", (rows, count, kind.block_size * kind.bits // 8), quants())
        self.add(f"{name}.scales", "float32", (rows, count), scales)
        if offsets:
            whole = np.concatenate(offsets, axis=1)
            self.add(f"{name}.offsets", "float32", (count, rows), [whole])


def _parts(count: int, width: int) -> Iterator[slice]:
    """Ranges of rows, as many as are held in memory."""
    step = max(_PIECE_ELEMENTS // width, 1)
    return (slice(start, min(start + step, count)) for start in range(0, count, step))
