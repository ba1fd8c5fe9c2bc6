"""Operators of ONNX Runtime that TensorRT lacks, written as operators that it has.

TensorRT's parser names MatMulNBits and GroupQueryAttention, but makes them with plugins that its
packages do not have. Neither does it compute with bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from swapnet.builder.importing.graph import Value
from swapnet.errors import ModelError
from swapnet.tensors import ONNX_TYPES

__all__ = ["OF_BYTES", "expand"]

_MICROSOFT = "com.microsoft"
_HINT = "build it for the CPU: --backend onnxruntime"

_BYTES = int(TensorProto.UINT8)

OF_BYTES = frozenset({"BitShift", "Concat", "Mod", "Reshape", "Slice"})
"""Operators that take quantised rows of a table apart (`gather_block_rows`): in place of bytes they
get larger integers."""

_PLAIN: Mapping[str, Sequence[object]] = {
    **{"softcap": (0.0,), "smooth_softmax": (0, -1), "local_window_size": (-1,)},
    **{"k_quant_type": (b"NONE",), "v_quant_type": (b"NONE",), "qk_output": (0,)},
}
"""Attributes of GroupQueryAttention at which it is plain attention."""


def expand(model: onnx.ModelProto, title: str, values: Mapping[str, Value]) -> dict[str, Value]:
    """Rewrite operators of a block, in place.

    A cache that GroupQueryAttention reads and writes gets its planned number of tokens: TensorRT
    writes to a cache in place where that number is fixed (its layer ``KVCacheUpdate``, which its
    parser makes of ``TensorScatter`` in every operator set).

    Parameters
    ----------
    model
        A block, with its weights as inputs or initialisers.
    title
        Its title, for errors.
    values
        Inputs of operators that are no constants, with planned shapes.

    Returns
    -------
    dict
        Those that have a fixed number of tokens, with that in their shapes.

    Raises
    ------
    ModelError
        An operator has an option that can't be rewritten.
    """
    nodes = [*model.graph.node]
    del model.graph.node[:]
    writer = _Writer(model.graph, title, values)
    for node in nodes:
        _EXPANSIONS.get(node.op_type, _keep)(writer, node)
    return writer.fixed


class _Writer:
    def __init__(self, graph: onnx.GraphProto, title: str, values: Mapping[str, Value]) -> None:
        self.graph = graph
        self.values = values
        self.infos = {info.name: info for info in (*graph.input, *graph.output)}
        self.stored = {tensor.name: tensor for tensor in graph.initializer}
        self.fixed: dict[str, Value] = {}
        self._title = title
        self._constants: dict[tuple[str, bytes, tuple[int, ...]], str] = {}

    def __call__(
        self, kind: str, *inputs: str, output: str = "", domain: str = "", **attributes: Any
    ) -> str:
        """Write an operator with one output, and give its name."""
        output = output or f"swapnet/{len(self.graph.node)}/{kind}"
        node = helper.make_node(kind, inputs, [output], output, domain=domain, **attributes)
        self.graph.node.append(node)
        return output

    def constant(self, value: Any, dtype: Any = np.int64) -> str:
        array = np.asarray(value, dtype)
        key = str(array.dtype), array.tobytes(), array.shape
        if key not in self._constants:
            self._constants[key] = name = f"swapnet/constant/{len(self._constants)}"
            self.graph.initializer.append(numpy_helper.from_array(array, name))
        return self._constants[key]

    def shaped(self, name: str, *dims: int) -> str:
        return self("Reshape", name, self.constant(dims))

    def kind(self, name: str) -> int:
        """Element type of an input, a constant or a value, as in ONNX."""
        if name in self.infos:
            return int(self.infos[name].type.tensor_type.elem_type)
        if name in self.stored:
            return int(self.stored[name].data_type)
        return ONNX_TYPES[self.values[name].dtype]

    def whole(self, name: str) -> str:
        """Integers of 32 bits in place of bytes that a block gets; others as they are."""
        if (name not in self.infos and name not in self.stored) or self.kind(name) != _BYTES:
            return name
        if name in self.stored:
            return self.constant(numpy_helper.to_array(self.stored[name]), np.int32)
        return self("Cast", name, to=TensorProto.INT32)

    def refusal(self, node: onnx.NodeProto, why: str, hint: str = _HINT) -> ModelError:
        what = f"{self._title} can't be compiled by TensorRT"
        return ModelError(what, why=f"{node.op_type} {node.output[0]!r} has {why}", hint=hint)


def _keep(writer: _Writer, node: onnx.NodeProto) -> None:
    """Write an operator as it is; in place of bytes it gets integers of 32 bits."""
    if node.op_type in OF_BYTES and node.domain in ("", "ai.onnx"):
        for position, name in enumerate(node.input):
            node.input[position] = writer.whole(name)
    writer.graph.node.append(node)


def _shift(writer: _Writer, node: onnx.NodeProto) -> None:
    """Write a division in place of BitShift to the right by a constant."""
    (direction,) = (a.s for a in node.attribute if a.name == "direction")
    if direction != b"RIGHT" or node.input[1] not in writer.stored:
        raise writer.refusal(node, "another direction than RIGHT, or a shift that is computed")
    divisor = 1 << numpy_helper.to_array(writer.stored[node.input[1]]).astype(np.int32)
    whole = writer.whole(node.input[0])
    writer("Div", whole, writer.constant(divisor, np.int32), output=node.output[0])


def _product(writer: _Writer, node: onnx.NodeProto) -> None:
    """Write what MatMulNBits says: weights from blocks of few bits, and a product of floats."""
    numbers = {a.name: a.i for a in node.attribute}
    value, packed, scales, zeros, order, bias = [*node.input, "", "", ""][:6]
    bits, size, dtype = numbers.get("bits", 4), numbers["block_size"], writer.kind(scales)
    rows, columns = numbers["N"], numbers["K"]
    count = -(-columns // size)
    if bits not in (4, 8) or columns % size or order:
        why = f"{bits} bits, {columns} columns in blocks of {size}, or an order"
        raise writer.refusal(node, why)
    kind = helper.tensor_dtype_to_np_dtype(dtype)

    def floats(name: str, each: int) -> str:
        """Packed numbers as floats (rows, blocks, each)."""
        cast = writer("Cast", name, to=dtype)
        if bits == 8:
            return writer.shaped(cast, rows, -1, each)
        high = writer("Floor", writer("Mul", cast, writer.constant(1 / 16, kind)))
        low = writer("Sub", cast, writer("Mul", high, writer.constant(16, kind)))
        halves = [writer("Unsqueeze", half, writer.constant([-1])) for half in (low, high)]
        return writer.shaped(writer("Concat", *halves, axis=-1), rows, -1, each)

    zero = writer.constant(1 << (bits - 1), kind)
    if zeros and writer.kind(zeros) == _BYTES:
        ends = [writer.constant([number]) for number in (0, count, 1)]
        zero = writer("Slice", floats(zeros, 1), *ends)
    elif zeros:
        zero = writer.shaped(zeros, rows, count, 1)
    centred = writer("Sub", floats(packed, size), zero)
    weights = writer("Mul", centred, writer.shaped(scales, rows, count, 1))
    turned = writer("Transpose", writer.shaped(weights, rows, columns), perm=[1, 0])
    product = writer("MatMul", value, turned, output="" if bias else node.output[0])
    if bias:
        writer("Add", product, bias, output=node.output[0])


def _attention(writer: _Writer, node: onnx.NodeProto) -> None:
    """Write what GroupQueryAttention says: turned keys, a cache of fixed length, and a softmax."""
    given = [*node.input, *[""] * 14][:14]
    query, key, content, *pasts, lasts, _, cosines, sines = given[:9]
    options = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    others = [name for name, usual in _PLAIN.items() if options.get(name, usual[0]) not in usual]
    others += [name for name in given[9:] if name]
    if others or not all(name in writer.infos for name in pasts):
        raise writer.refusal(node, ", ".join(others) or "a cache that is no input")
    heads, groups = int(options["num_heads"]), int(options["kv_num_heads"])
    length, width = writer.values[pasts[0]].planned[2:]
    if not length:
        hint = "leave --shapes out, or give the past as many tokens as a context shall have"
        raise writer.refusal(node, "a cache of no tokens in the planned shapes", hint)
    for name in (*pasts, *node.output[1:3]):
        writer.infos[name].type.tensor_type.shape.dim[2].dim_value = length
        value = writer.values[name]
        writer.fixed[name] = replace(value, shape=(*value.shape[:2], length, width))
    if not key:  # queries, keys and values are one input
        counts = (0, heads, heads + groups, heads + 2 * groups)
        ends = [writer.constant([width * count]) for count in counts]
        axis = writer.constant([2])
        query, key, content = (writer("Slice", query, *span, axis) for span in pairwise(ends))
    kind = helper.tensor_dtype_to_np_dtype(writer.kind(pasts[0]))
    last = writer("Cast", lasts, to=TensorProto.INT64)  # (batch,): position of the last token
    sequence = writer("Gather", writer("Shape", query), writer.constant(1))
    first = writer("Sub", writer("Add", last, writer.constant(1)), sequence)
    # A prompt that is padded behind has fewer tokens, and begins at 0.
    first = writer("Max", first, writer.constant(0))
    steps = writer("Range", writer.constant(0), sequence, writer.constant(1))
    places = writer("Add", writer("Unsqueeze", first, writer.constant([1])), steps)

    def apart(name: str, count: int) -> str:
        """Values (batch, tokens, heads times width) as (batch, heads, tokens, width)."""
        return writer("Transpose", writer.shaped(name, 0, 0, count, width), perm=[0, 2, 1, 3])

    def turned(name: str, count: int) -> str:
        if not options.get("do_rotary"):
            return apart(name, count)
        more = {"interleaved": options.get("rotary_interleaved", 0), "num_heads": count}
        inputs = (name, places, cosines, sines)
        return apart(writer("RotaryEmbedding", *inputs, domain=_MICROSOFT, **more), count)

    keys, values = (
        writer("TensorScatter", past, new, first, output=present, axis=2)
        for past, new, present in zip(
            pasts, (turned(key, groups), apart(content, groups)), node.output[1:3], strict=True
        )
    )
    scale = options.get("scale") or width**-0.5
    queries = writer("Mul", turned(query, heads), writer.constant(scale, kind))
    grouped = writer.shaped(queries, 0, groups, -1, width)
    scores = writer("MatMul", grouped, writer("Transpose", keys, perm=[0, 1, 3, 2]))
    scores = writer.shaped(scores, 0, groups, heads // groups, -1, length)
    limits = writer("Unsqueeze", places, writer.constant([1, 2, 4]))
    seen = writer("LessOrEqual", writer.constant(np.arange(length)), limits)
    lowest = writer.constant(np.finfo(kind).min, kind)
    weights = writer("Softmax", writer("Where", seen, scores, lowest), axis=-1)
    mixed = writer("MatMul", writer.shaped(weights, 0, groups, -1, length), values)
    joined = writer("Transpose", writer.shaped(mixed, 0, heads, -1, width), perm=[0, 2, 1, 3])
    writer("Reshape", joined, writer.constant([0, 0, heads * width]), output=node.output[0])


_EXPANSIONS: Mapping[str, Callable[[_Writer, onnx.NodeProto], None]] = {
    "BitShift": _shift,
    "MatMulNBits": _product,
    "GroupQueryAttention": _attention,
}
