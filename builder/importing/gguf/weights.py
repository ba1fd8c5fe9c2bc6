"""Weights of llama.cpp's types as those of ``MatMulNBits``: the same numbers in another order,
written a piece at a time.

A weight is ``scale * (q - 2 ** (bits - 1)) + offset``, with a scale and an offset for each block of
a row. Layouts of the types: ggml-common.h of llama.cpp.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import IO, TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from swapnet.tensors import ONNX_TYPES
from swapnet.units import align_up

if TYPE_CHECKING:
    import onnx
    from gguf import ReaderTensor

__all__ = ["BLOCK_TYPES", "FLOAT_TYPES", "BlockType", "Weights", "floats", "parts"]

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

FLOAT_TYPES: Final = ("F32", "F16", "BF16")

_PIECE_ELEMENTS = 2 << 20
_ALIGNMENT = 64

_SHIFTS: Final = np.array([0, 2, 4, 6], np.uint8)
"""Places of the pairs of bits of a byte."""


class _Blocks(NamedTuple):
    """Quants (rows, blocks, bytes), scales and offsets (rows, blocks); of 4 bits, the first is the
    lower one of a byte."""

    quants: Bytes
    scales: Floats
    offsets: Floats | None = None


class BlockType(NamedTuple):
    """How a type of llama.cpp is stored; ``unpack`` takes (rows, its own blocks, bytes)."""

    bits: int
    block_size: int
    own_bytes: int
    unpack: Callable[[Bytes], _Blocks]
    has_offsets: bool = False

    def read(self, rows: Bytes) -> _Blocks:
        """Rows as they are stored in the file."""
        return self.unpack(rows.reshape(len(rows), -1, self.own_bytes))


def floats(data: npt.NDArray[Any], name: str) -> Floats:
    """Numbers of any type in float32."""
    from gguf import GGMLQuantizationType, dequantize

    return dequantize(np.ascontiguousarray(data), GGMLQuantizationType[name])


def _halves(data: Bytes) -> Floats:
    """Pairs of bytes as float16, widened."""
    return np.ascontiguousarray(data).view(np.float16).astype(np.float32)


def _packed(elements: Bytes) -> Bytes:
    return elements[..., 0::2] | elements[..., 1::2] << np.uint8(4)


def _apart(pairs: Bytes) -> Bytes:
    """All lower halves of bytes, and then all upper ones."""
    return np.concatenate([pairs & np.uint8(15), pairs >> np.uint8(4)], axis=-1)


def _q4_0(data: Bytes) -> _Blocks:
    return _Blocks(_packed(_apart(data[..., 2:])), _halves(data[..., :2])[..., 0])


def _q4_1(data: Bytes) -> _Blocks:
    scales, least = np.moveaxis(_halves(data[..., :4]), -1, 0)
    return _Blocks(_packed(_apart(data[..., 4:])), scales, least + 8 * scales)


def _q8_0(data: Bytes) -> _Blocks:
    return _Blocks(data[..., 2:] ^ np.uint8(128), _halves(data[..., :2])[..., 0])


def _q4_k(data: Bytes) -> _Blocks:
    scales, least = _super_scales(data)
    return _Blocks(_packed(_in_pairs(data[..., 16:])), scales, 8 * scales - least)


def _q5_0(data: Bytes) -> _Blocks:
    return _Blocks(_of_5_bits(data[..., 2:]), _halves(data[..., :2])[..., 0])


def _q5_1(data: Bytes) -> _Blocks:
    scales, least = np.moveaxis(_halves(data[..., :4]), -1, 0)
    return _Blocks(_of_5_bits(data[..., 4:]), scales, least + 16 * scales)


def _q5_k(data: Bytes) -> _Blocks:
    scales, least = _super_scales(data)
    elements = _in_pairs(data[..., 48:]) | _single_bits(data[..., 16:48]) << np.uint8(4)
    return _Blocks(elements + np.uint8(128 - 16), scales, 16 * scales - least)


def _q6_k(data: Bytes) -> _Blocks:
    rows, count, _ = data.shape
    low = _apart(data[..., :128].reshape(rows, count, 2, 64)).reshape(rows, -1, 32)
    # Of 0 to 63, 32 stands for zero; of 8 bits 128 does.
    elements = (low | _of_2_bits(data[..., 128:192]) << np.uint8(4)) + np.uint8(128 - 32)
    scales = _halves(data[..., 208:]) * data[..., 192:208].view(np.int8).astype(np.float32)
    return _Blocks(elements.reshape(rows, -1, 16), scales.reshape(rows, -1))


def _q2_k(data: Bytes) -> _Blocks:
    rows = len(data)
    pairs = zip(np.split(_halves(data[..., 80:]), 2, axis=-1), (0, 4), strict=True)
    factors = [(half * (data[..., :16] >> shift & 15)).reshape(rows, -1) for half, shift in pairs]
    # Of 0 to 3, 2 is in the middle; of 4 bits 8 is.
    elements = _of_2_bits(data[..., 16:80]) + np.uint8(8 - 2)
    offsets = 2 * factors[0] - factors[1]
    return _Blocks(_packed(elements.reshape(rows, -1, 16)), factors[0], offsets)


def _q3_k(data: Bytes) -> _Blocks:
    rows = len(data)
    elements = _of_2_bits(data[..., 32:96]) | _single_bits(data[..., :32]) << np.uint8(2)
    high = (data[..., None, 104:108] >> _SHIFTS[:, None] & 3).reshape(*data.shape[:2], 16)
    factors = (_apart(data[..., 96:104]) | high << np.uint8(4)).astype(np.float32) - 32
    scales = (_halves(data[..., 108:]) * factors).reshape(rows, -1)
    # Of 0 to 7, 4 stands for zero; of 4 bits 8 does.
    return _Blocks(_packed((elements + np.uint8(8 - 4)).reshape(rows, -1, 16)), scales)


def _iq4_nl(data: Bytes) -> _Blocks:
    return _Blocks(_of_table(_apart(data[..., 2:])), _halves(data[..., :2])[..., 0])


def _iq4_xs(data: Bytes) -> _Blocks:
    rows, count, _ = data.shape
    low = np.stack([data[..., 4:8] & 15, data[..., 4:8] >> 4], -1).reshape(rows, count, 8)
    high = (data[..., 2:4, None] >> _SHIFTS & 3).reshape(rows, count, 8)
    scales = _halves(data[..., :2]) * ((low | high << np.uint8(4)).astype(np.float32) - 32)
    elements = _apart(data[..., 8:].reshape(rows, -1, 16))
    return _Blocks(_of_table(elements), scales.reshape(rows, -1))


def _super_scales(data: Bytes) -> tuple[Floats, Floats]:
    """Scales and least weights of the 8 blocks of a super-block of Q4_K or Q5_K."""
    from gguf.quants import Q4_K

    factors = Q4_K.get_scale_min(np.ascontiguousarray(data[..., 4:16]).reshape(-1, 12))
    scales, least = (
        _halves(data[..., start : start + 2]) * factor.reshape(*data.shape[:2], 8)
        for start, factor in zip((0, 2), factors, strict=True)
    )
    return scales.reshape(len(data), -1), least.reshape(len(data), -1)


def _in_pairs(data: Bytes) -> Bytes:
    """Halves of bytes: lower ones of 32 bytes are a block, upper ones are the next."""
    return _apart(data.reshape(len(data), -1, 32)).reshape(len(data), -1, 32)


def _of_2_bits(data: Bytes) -> Bytes:
    """Pairs of bits of 32 bytes, the lowest first."""
    pairs = data.reshape(len(data), -1, 1, 32) >> _SHIFTS[:, None] & np.uint8(3)
    return pairs.reshape(len(data), -1, 32)


def _single_bits(data: Bytes) -> Bytes:
    """Bits of 32 bytes, the lowest first."""
    bits = np.unpackbits(data[..., None, :], axis=-2, bitorder="little")
    return bits.reshape(len(data), -1, 32)


def _of_5_bits(data: Bytes) -> Bytes:
    """32 fifth bits, then the other ones: of 0 to 31, 16 stands for zero; of 8 bits 128 does."""
    high = np.unpackbits(data[..., :4], axis=-1, bitorder="little")
    return (_apart(data[..., 4:]) | high << np.uint8(4)) + np.uint8(128 - 16)


def _of_table(numbers: Bytes) -> Bytes:
    from gguf.quants import IQ4_NL

    return (np.array(IQ4_NL.kvalues) + 128).astype(np.uint8)[numbers]


BLOCK_TYPES: Final = {
    "Q4_0": BlockType(4, 32, 18, _q4_0),
    "Q4_1": BlockType(4, 32, 20, _q4_1, has_offsets=True),
    "Q5_0": BlockType(8, 32, 22, _q5_0),
    "Q5_1": BlockType(8, 32, 24, _q5_1, has_offsets=True),
    "Q8_0": BlockType(8, 32, 34, _q8_0),
    "Q2_K": BlockType(4, 16, 84, _q2_k, has_offsets=True),
    "Q3_K": BlockType(4, 16, 110, _q3_k),
    "Q4_K": BlockType(4, 32, 144, _q4_k, has_offsets=True),
    "Q5_K": BlockType(8, 32, 176, _q5_k, has_offsets=True),
    "Q6_K": BlockType(8, 16, 210, _q6_k),
    "IQ4_NL": BlockType(8, 32, 18, _iq4_nl),
    "IQ4_XS": BlockType(8, 32, 136, _iq4_xs),
}


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
        pieces = (floats(tensor.data[part], kind) for part in parts(*shape))
        return self.add(name, "float32", shape, pieces)

    def _add_blocks(self, tensor: ReaderTensor, kind: BlockType) -> None:
        """Add quants, ``NAME.scales``, and ``NAME.offsets`` with a column for each row."""
        name = tensor.name
        columns, rows = map(int, tensor.shape)
        count = columns // kind.block_size
        scales: list[Floats] = []
        offsets: list[Floats] = []

        def quants() -> Iterator[Bytes]:
            for part in parts(rows, columns):
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


def parts(count: int, width: int) -> Iterator[slice]:
    """Ranges of rows, as many as are held in memory."""
    step = max(_PIECE_ELEMENTS // width, 1)
    return (slice(start, min(start + step, count)) for start in range(0, count, step))
