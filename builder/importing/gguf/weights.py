"""Constants of an imported model, written one after the other, a piece at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from swapnet.builder.importing.gguf.blocks import BLOCK_TYPES, floats
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

    def floats(self, tensor: ReaderTensor, name: str = "", *, transposed: bool = False) -> str:
        """Add a matrix in float32; returns its name. One that has blocks can't be transposed."""
        kind, data = tensor.tensor_type.name, tensor.data
        shape = rows, columns = tuple(map(int, tensor.shape[::-1]))
        if transposed:
            wide = data.shape[1] // columns  # the package has bfloat16 as two bytes
            parts = (slice(p.start * wide, p.stop * wide) for p in _parts(columns, rows))
            pieces = (floats(data[:, part], kind).T for part in parts)
        else:
            pieces = (floats(data[part], kind) for part in _parts(rows, columns))
        given = shape[::-1] if transposed else shape
        return self.add(name or tensor.name, "float32", given, pieces)

    def blocks(self, tensor: ReaderTensor) -> None:
        """Add quants, ``NAME.scales``, and ``NAME.offsets`` with a column for each row."""
        kind, name = BLOCK_TYPES[tensor.tensor_type.name], tensor.name
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
