"""Rows of a table that is quantised in blocks: they are gathered first, and then computed.

``GatherBlockQuantized`` takes a whole table, and refuses zero points of symbolic shape. So
operators of ONNX compute the gathered rows, to the same bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from swapnet.builder.importing.graph import Constant, Value
from swapnet.builder.importing.lookup import LOOKUP_BYTES
from swapnet.builder.rewriting.writer import GraphWriter
from swapnet.tensors import ONNX_TYPES

if TYPE_CHECKING:
    import onnx

__all__ = ["gather_block_rows"]

_UINT4, _INT4 = 21, 22
"""Numbers of ``TensorProto.DataType``."""

_OPSET = 11
"""The operator set since which ONNX has BitShift."""


@dataclass(frozen=True)
class _Table:
    """A table in blocks along its rows.

    ``zeros`` are the zero points, of as many bits as the data, or one for all blocks.
    """

    data: Constant
    scales: Constant
    zeros: Constant | int
    bits: int
    block_size: int


def gather_block_rows(writer: GraphWriter, node: onnx.NodeProto) -> bool:
    """Write what gathers rows of a table in blocks; False where ``node`` must stay as it is.

    That is ``GatherBlockQuantized``, and ``Gather`` of what ``DequantizeLinear`` gives. A table
    that ``MatMulNBits`` multiplies with too stays one constant.
    """
    table = _table(writer, node)
    if table is None:
        return False
    result = writer.values[node.output[0]]
    rank = len(result.planned) - 1

    def write(kind: str, inputs: Sequence[str], dtype: str, *tail: int, **attributes: Any) -> str:
        shape = (*result.shape[:rank], *tail)
        planned, smallest = (
            (*dims[:rank], *tail) if dims else () for dims in (result.planned, result.smallest)
        )
        name = writer.fresh(f"{result.name}/{kind.lower()}")
        writer.write(kind, inputs, Value(name, dtype, shape, planned, smallest), **attributes)
        return name

    def reshaped(name: str, dtype: str, *tail: int) -> str:
        dims = writer.integers(f"{result.name}/dims", [0] * rank + list(tail), (rank, tail))
        return write("Reshape", [name, dims], dtype, *tail)

    def gathered(constant: Constant) -> str:
        given = [constant.name, node.input[1]]
        return write("Gather", given, constant.dtype, *constant.shape[1:], axis=0)

    def numbers(rows: str, constant: Constant, *tail: int) -> str:
        """Elements of gathered rows in float32; of 4 bits, the first ones of each row."""
        dtype, dims, count = constant.dtype, constant.shape[1:], prod(constant.shape[1:])
        if table.bits == 4:
            sixteen, four = (_scalar(writer, np.uint8(number)) for number in (16, 4))
            low = write("Mod", [rows, sixteen], dtype, *dims)
            high = write("BitShift", [rows, four], dtype, *dims, direction="RIGHT")
            halves = [reshaped(half, dtype, count, 1) for half in (low, high)]
            rows = write("Concat", halves, dtype, count, 2, axis=rank + 1)
            if prod(tail) < 2 * count:
                rows = reshaped(rows, dtype, 2 * count)
                ends = [writer.integers(f"{n}", [n], n) for n in (0, prod(tail), rank)]
                rows = write("Slice", [rows, *ends], dtype, prod(tail))
        rows = reshaped(rows, dtype, *tail)
        return write("Cast", [rows], "float32", *tail, to=ONNX_TYPES["float32"])

    zeros = table.zeros
    constants = [table.data, table.scales, *([] if isinstance(zeros, int) else [zeros])]
    rows = [gathered(constant) for constant in constants]  # lookups, one after the other
    shape = prod(table.scales.shape[1:]), table.block_size
    zero = (
        _scalar(writer, np.float32(zeros))
        if isinstance(zeros, int)
        else numbers(rows[2], zeros, shape[0], 1)
    )
    centred = write("Sub", [numbers(rows[0], table.data, *shape), zero], "float32", *shape)
    scales = reshaped(rows[1], "float32", shape[0], 1)
    scaled = write("Mul", [centred, scales], "float32", *shape)
    dims = writer.integers(f"{result.name}/dims", [0] * rank + [prod(shape)], (rank, prod(shape)))
    writer.write("Reshape", [scaled, dims], result)
    return True


def _scalar(writer: GraphWriter, number: np.generic) -> str:
    from onnx import numpy_helper

    name = f"{number.dtype}/{number}"
    writer.inline.setdefault(name, numpy_helper.from_array(np.asarray(number), name))
    return name


def _table(writer: GraphWriter, node: onnx.NodeProto) -> _Table | None:
    """The table that an operator gathers rows of; None where it must stay whole."""
    parts = _parts(writer, node)
    if parts is None or writer.opset < _OPSET or len(writer.values[node.output[0]].planned) < 2:
        return None
    (data, scales, zeros), bits, block_size, along = parts
    _, dims = writer.source.shapes(data)
    found, steps = _stored(writer, data), _stored(writer, scales)
    points = _stored(writer, zeros) if zeros else None
    if not found or not steps or bool(zeros) != bool(points) or steps[0].dtype != "float32":
        return None
    table, narrow = found
    width = writer.values[node.output[0]].planned[-1]
    size = 4 if narrow else bits or 8
    is_whole = 8 * table.nbytes == dims[0] * width * size and width % (block_size or width + 1) == 0
    if len(dims) != 2 or along not in (1, -1) or size == 2 or not is_whole:
        return None
    if table.nbytes < LOOKUP_BYTES:
        return None
    default = 8 if narrow == _INT4 else 0 if narrow or not bits else 1 << (bits - 1)
    return _Table(
        _shared(writer, table, dims[0]),
        _shared(writer, steps[0], dims[0]),
        _shared(writer, points[0], dims[0]) if points else default,
        size,
        block_size,
    )


def _parts(writer: GraphWriter, node: onnx.NodeProto) -> tuple[Sequence[str], int, int, int] | None:
    """Data, scales and zero points; bits of bytes, where they are told; block size and axis."""
    numbers = {a.name: a.i for a in node.attribute}
    if node.op_type == "GatherBlockQuantized" and not numbers.get("gather_axis", 0):
        data, _, scales, zeros = [*node.input, ""][:4]
        size, along = numbers.get("block_size", 128), numbers.get("quantize_axis", 1)
        return (data, scales, zeros), numbers.get("bits", 4), size, along
    index = writer.source.producers.get(node.input[0]) if node.input else None
    if node.op_type != "Gather" or numbers.get("axis", 0) or index is None:
        return None
    computed = writer.source.nodes[index]
    numbers = {a.name: a.i for a in computed.attribute}
    if computed.op_type != "DequantizeLinear":
        return None
    return [*computed.input, ""][:3], 0, numbers.get("block_size", 0), numbers.get("axis", 1)


def _stored(writer: GraphWriter, name: str) -> tuple[Constant, int] | None:
    """A constant with rows of whole bytes, and the type of its elements where they have 4 bits."""
    source = writer.source
    index = source.producers.get(name)
    if index is not None and source.nodes[index].op_type == "Reshape":
        name = source.nodes[index].input[0]
    if name in source.constants:
        return source.constants[name], 0
    tensor = source.inline.get(name)
    if tensor is None or tensor.data_type not in (_UINT4, _INT4):
        return None
    # Of a signed element 8 more is stored, as of its zero point.
    data = np.frombuffer(tensor.raw_data, np.uint8) ^ np.uint8(
        0x88 if tensor.data_type == _INT4 else 0
    )
    rows, width = prod(tensor.dims[:-1]), tensor.dims[-1]
    if width % 2:
        apart = np.stack([data & 15, data >> 4], axis=1).reshape(-1)[: rows * width]
        apart = np.pad(apart.reshape(rows, width), ((0, 0), (0, 1)))
        data = (apart[:, ::2] | apart[:, 1::2] << 4).reshape(-1)
    shape = (*tensor.dims[:-1], (width + 1) // 2)
    return Constant(writer.fresh(f"{name}/bytes"), "uint8", shape, data), tensor.data_type


def _shared(writer: GraphWriter, constant: Constant, rows: int) -> Constant:
    """The constant with a row for each of the table; an equal one of MatMulNBits in its place.

    One that is too small for a lookup is apart: else the product could not be sliced.
    """
    names = {
        name
        for node in writer.source.nodes
        if node.op_type == "MatMulNBits"
        for name in node.input[1:4]
    }
    equal = (
        other
        for name in sorted(names & writer.constants.keys())
        if (other := writer.constants[name]).nbytes == constant.nbytes
        and other.dtype == constant.dtype
        and np.array_equal(other.bytes(), constant.bytes())
    )
    if constant.nbytes >= LOOKUP_BYTES:
        constant = next(equal, constant)
    elif constant.name in writer.constants:
        constant = replace(constant, name=writer.fresh(f"{constant.name}/rows"))
    if constant.shape[0] != rows:
        constant = replace(constant, whole_shape=(rows, prod(constant.shape) // rows))
    writer.constants[constant.name] = constant
    return constant
