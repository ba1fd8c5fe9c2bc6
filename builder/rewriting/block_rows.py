"""Rows of a table that is quantised in blocks: they are gathered first, and then computed.

``GatherBlockQuantized`` takes a whole table, and refuses zero points of symbolic shape. So
operators of ONNX compute the gathered rows, to the same bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from swapnet.builder.importing.graph import Constant, Value
from swapnet.builder.importing.lookup import LOOKUP_BYTES
from swapnet.builder.rewriting.writer import GraphWriter
from swapnet.executor.backends.onnxruntime import version
from swapnet.executor.backends.windows import packs_bits
from swapnet.tensors import ONNX_TYPES

__all__ = ["gather_block_rows"]

_UINT4, _INT4 = 21, 22
"""Numbers of ``TensorProto.DataType``."""

_OPSET = 11
"""The operator set since which ONNX has BitShift."""


@dataclass(frozen=True)
class _Table:
    """A table in blocks along its rows; ``zeros`` are zero points, or one for all blocks."""

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

    # Lookups come one after the other: what lies between would be a block of its own.
    rows, scales = gathered(table.data), gathered(table.scales)
    shape = prod(table.scales.shape[1:]), table.block_size
    zeros = table.zeros
    if isinstance(zeros, int):
        zero = _scalar(writer, np.float32(zeros))
    else:
        zero = numbers(gathered(zeros), zeros, shape[0], 1)
    centred = write("Sub", [numbers(rows, table.data, *shape), zero], "float32", *shape)
    scales = reshaped(scales, "float32", shape[0], 1)
    scaled = write("Mul", [centred, scales], "float32", *shape)
    dims = writer.integers(f"{result.name}/dims", [0] * rank + [prod(shape)], (rank, prod(shape)))
    writer.write("Reshape", [scaled, dims], result)
    return True


def _scalar(writer: GraphWriter, number: np.generic) -> str:
    name = f"{number.dtype}/{number}"
    writer.inline.setdefault(name, numpy_helper.from_array(np.asarray(number), name))
    return name


def _table(writer: GraphWriter, node: onnx.NodeProto) -> _Table | None:
    """The table that an operator gathers rows of; None where it must stay whole."""
    is_one = node.op_type == "GatherBlockQuantized"
    if not is_one and node.op_type != "Gather":
        return None
    producers, result = writer.source.producers, writer.values[node.output[0]]
    numbers = {a.name: a.i for a in node.attribute}
    if numbers.get("gather_axis" if is_one else "axis", 0) or len(result.planned) < 2:
        return None
    if is_one:
        names = node.input[0], *node.input[2:]
        block_size, along = numbers.get("block_size", 128), numbers.get("quantize_axis", 1)
    elif node.input[0] in producers:
        computed = writer.source.nodes[producers[node.input[0]]]
        numbers = {a.name: a.i for a in computed.attribute}
        names = tuple(computed.input) if computed.op_type == "DequantizeLinear" else ()
        block_size, along = numbers.get("block_size", 0), numbers.get("axis", 1)
    else:
        return None
    given = [name for name in names if name]
    stored = [found for name in given if (found := _stored(writer, name))]
    if writer.opset < _OPSET or len(stored) < 2 or not block_size or along not in (1, -1):
        return None
    constants = [constant for constant, _ in stored]
    if len(constants) < len(given) or constants[1].dtype != "float32":
        return None
    data, dims, kind = constants[0], writer.source.shapes(names[0])[1], stored[0][1]
    bits = 4 if kind else numbers.get("bits", 4) if is_one else 8
    blocks, rest = divmod(result.planned[-1], block_size)
    is_whole = 8 * data.nbytes == dims[0] * result.planned[-1] * bits
    if len(dims) != 2 or bits == 2 or rest or not is_whole or data.nbytes < LOOKUP_BYTES:
        return None
    # Before this version ONNX Runtime takes zero points of other rows where their number is odd.
    if is_one and not kind and len(constants) > 2 and blocks % 2 and not packs_bits(version()):
        return None
    default = 8 if kind == _INT4 else 1 << (bits - 1) if is_one and not kind else 0
    shared = [_shared(writer, constant, dims[0]) for constant in constants]
    return _Table(shared[0], shared[1], shared[2] if shared[2:] else default, bits, block_size)


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
    data = np.frombuffer(tensor.raw_data, np.uint8) ^ np.uint8(136 * (tensor.data_type == _INT4))
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
    products = (node for node in writer.source.nodes if node.op_type == "MatMulNBits")
    names = dict.fromkeys(name for node in products for name in node.input[1:4] if name)
    if constant.nbytes < LOOKUP_BYTES:
        constant = replace(constant, name=writer.fresh(f"{constant.name}/rows"))
    else:
        equal = (
            other
            for name in names
            if (other := writer.constants.get(name)) and other.nbytes == constant.nbytes
            if np.array_equal(other.bytes(), constant.bytes())
        )
        constant = next(equal, constant)
    if constant.shape[0] != rows:
        constant = replace(constant, whole_shape=(rows, prod(constant.shape) // rows))
    writer.constants[constant.name] = constant
    return constant
