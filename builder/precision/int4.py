"""Weights of products and embedding tables in blocks of 4 bits, read and written in pieces.

ONNX Runtime's own kernel rounds them, as its ``MatMulNBitsQuantizer`` does; that tool needs one
more package, and holds the whole model in memory.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from swapnet.builder.importing.graph import Constant, copied, read_constant, used_names
from swapnet.builder.importing.lookup import LOOKUP_BYTES
from swapnet.builder.importing.source import SourceModel
from swapnet.errors import ModelError
from swapnet.tensors import external_tensor

__all__ = ["BLOCK_SIZES", "in_int4"]

BLOCK_SIZES: Final = (32, 64, 128)
"""Numbers of weights that may share a scale and a zero point."""

_SMALLEST_BYTES = 16 << 10
"""Smaller float32 weights stay as they are."""

_PIECE_ELEMENTS = 4 << 20
_FILE = "int4.data"
_PARTS = ("Q4", "scales", "zero_points")
_MICROSOFT = "com.microsoft"


def in_int4(
    normal: SourceModel,
    folder: Path,
    *,
    block_size: int,
    accuracy_level: int,
    exclude: Collection[str] = (),
) -> onnx.ModelProto:
    """A model with ``MatMulNBits`` and ``GatherBlockQuantized`` of 4 bits.

    Blocks have zero points, so that all 16 steps are used. On x86 these take no bytes once they are
    packed: they become part of sums that each block has in any case.

    Parameters
    ----------
    normal
        A normalised model with weights in ``folder``, where those of 4 bits are written.
    block_size
        One of `BLOCK_SIZES`.
    accuracy_level
        Attribute of the products: 4 rounds what they multiply to 8 bits, 0 computes in float32.
    exclude
        Names of operators that stay in float32.

    Raises
    ------
    ModelError
        No weight can be stored in 4 bits, or one is not finite.
    """
    proto = copied(normal.proto)
    graph = proto.graph
    weights = {
        tensor.name: constant
        for tensor in graph.initializer
        if tensor.data_type == tensor.FLOAT and len(tensor.dims) == 2
        if (constant := read_constant(tensor, folder)) and constant.nbytes >= _SMALLEST_BYTES
    }
    by_rows = _readable(graph, weights, block_size, exclude)
    if not by_rows:
        raise ModelError(
            f"nothing of {normal.name} becomes int4",
            why="MatMul and Gemm do with a float32 matrix of 16 KiB or more, and Gather with a "
            "table of 8 MiB or more; no other operator reads these",
            hint="leave --precision int4 out, or give --precision int8 --weight-only",
        )
    with (folder / _FILE).open("wb") as file:
        writer = _Writer(file, block_size)
        stored = {name: writer.quantise(weights[name], rows) for name, rows in by_rows.items()}
    nodes = [made for node in graph.node for made in _made(node, stored, writer, accuracy_level)]
    tensors = [tensor for tensor in graph.initializer if tensor.name not in by_rows]
    inputs = [value for value in graph.input if value.name not in by_rows]  # some list weights too
    del graph.node[:], graph.initializer[:], graph.input[:]
    graph.node.extend(nodes)
    graph.initializer.extend([*tensors, *writer.tensors])
    graph.input.extend(inputs)
    if _MICROSOFT not in {entry.domain for entry in proto.opset_import}:
        proto.opset_import.append(helper.make_opsetid(_MICROSOFT, 1))
    return proto


def _readable(
    graph: onnx.GraphProto,
    weights: Mapping[str, Constant],
    block_size: int,
    exclude: Collection[str],
) -> dict[str, bool]:
    """Weights that all readers take in 4 bits: whether their rows are rounded in blocks."""
    found: dict[str, set[bool | None]] = {value.name: {None} for value in graph.output}
    for node in graph.node:
        position = 0 if node.op_type == "Gather" else 1
        for name in filter(weights.__contains__, used_names(node)):
            alone = [i for i, given in enumerate(node.input) if given == name] == [position]
            form = _by_rows(node, weights[name], block_size) if alone else None
            found.setdefault(name, set()).add(None if node.name in exclude else form)
    return {name: True in forms for name, forms in found.items() if forms in ({True}, {False})}


def _by_rows(node: onnx.NodeProto, weight: Constant, block_size: int) -> bool | None:
    """Whether an operator's weight is rounded in blocks of its rows; None if it is not at all."""
    attributes = {a.name: a.f if a.type == a.FLOAT else a.i for a in node.attribute}
    if node.op_type == "MatMul":
        return False
    if node.op_type == "Gemm":
        plain = all(attributes.get(n, 1) == 1 for n in ("alpha", "beta"))
        return bool(attributes.get("transB")) if plain and not attributes.get("transA") else None
    # A smaller table would be a weight in memory; of one in float32 rows are read from storage.
    is_lookup = weight.nbytes >= 8 * LOOKUP_BYTES and weight.shape[1] % block_size == 0
    is_table = node.op_type == "Gather" and not attributes.get("axis") and is_lookup
    return True if is_table else None


@dataclass(frozen=True)
class _Blocks:
    """Names of the blocks of a weight, their scales and zero points; and the size of the weight."""

    names: tuple[str, str, str]
    columns: int
    length: int


class _Writer:
    """Appends blocks to a file, equal ones once; ``tensors`` are the constants that it wrote."""

    def __init__(self, file: IO[bytes], block_size: int) -> None:
        self.tensors: list[onnx.TensorProto] = []
        self.block_size = block_size
        self._file = file
        self._written: dict[bytes, _Blocks] = {}

    def quantise(self, weight: Constant, by_rows: bool) -> _Blocks:
        """Append the blocks of a weight, one row for each of its columns."""
        from onnxruntime.capi._pybind_state import quantize_matmul_4bits

        whole = weight.data.view(np.float32).reshape(weight.shape)
        columns = whole if by_rows else whole.T
        count, length = columns.shape
        blocks = -(-length // self.block_size)
        scales = np.zeros((count, blocks), np.float32)
        zeros = np.zeros((count, (blocks + 1) // 2), np.uint8)
        digest, offset = hashlib.sha256(), self._file.tell()
        step = max(_PIECE_ELEMENTS // length, 1)
        for start in range(0, count, step):
            piece = np.ascontiguousarray(columns[start : start + step].T)
            if not np.isfinite(piece).all():
                raise ModelError(
                    f"weight {weight.name!r} can't be quantised",
                    why="it holds NaN or infinity",
                    hint="repair the model, or exclude the operator: --exclude",
                )
            ends = slice(start, start + piece.shape[1])
            packed = np.zeros((piece.shape[1], blocks, self.block_size // 2), np.uint8)
            sizes = self.block_size, piece.shape[1], length
            quantize_matmul_4bits(packed, piece, scales[ends], zeros[ends], *sizes, False)
            digest.update(packed.data)
            self._file.write(packed.data)
        digest.update(scales.tobytes() + zeros.tobytes())
        if (known := self._written.get(digest.digest())) is not None:
            self._file.seek(offset)
            return known
        name, scale, zero = (f"{weight.name}_{part}" for part in _PARTS)
        shape = (count, *packed.shape[1:])
        self.tensors.append(
            external_tensor(name, "uint8", shape, _FILE, offset, prod(shape)),
        )
        self.array(scale, scales)
        self.array(zero, zeros)
        made = self._written[digest.digest()] = _Blocks((name, scale, zero), count, length)
        return made

    def array(self, name: str, array: npt.NDArray[Any]) -> str:
        """Add a constant; returns its name."""
        self.tensors.append(numpy_helper.from_array(array, name))
        return name


def _made(
    node: onnx.NodeProto, stored: Mapping[str, _Blocks], writer: _Writer, accuracy_level: int
) -> Iterator[onnx.NodeProto]:
    """The operator, or those that take its weight in blocks."""
    blocks = next((stored[name] for name in node.input if name in stored), None)
    if blocks is None:
        yield node
        return
    sizes: dict[str, Any] = {"bits": 4, "block_size": writer.block_size, "domain": _MICROSOFT}
    (output,), name = node.output, f"{node.name}_Q4"
    if node.op_type == "Gather":
        rows = f"{output}_table"
        dims = writer.array(f"{rows}_dims", np.array([blocks.columns, blocks.length // 2]))
        yield helper.make_node("Reshape", [blocks.names[0], dims], [rows], rows)
        given = [rows, node.input[1], *blocks.names[1:]]
        sizes |= {"gather_axis": 0, "quantize_axis": 1}
        yield helper.make_node("GatherBlockQuantized", given, [output], name, **sizes)
        return
    bias = list(filter(None, node.input[2:]))
    product = f"{output}_product" if bias else output
    sizes |= {"N": blocks.columns, "K": blocks.length, "accuracy_level": accuracy_level}
    given = [node.input[0], *blocks.names]
    yield helper.make_node("MatMulNBits", given, [product], name, **sizes)
    if bias:
        yield helper.make_node("Add", [product, *bias], [output], node.name)
