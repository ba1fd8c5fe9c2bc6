"""Products of few rows as convolutions of one pixel: their weights need no packing at run time.

ONNX Runtime packs the weight of a product again in every call where it may not keep a packed copy.
Its convolutions with blocked channels (NCHWc) read weights as they lie in storage.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper

from swapnet.builder.importing.graph import Constant, Graph, Value, used_names
from swapnet.builder.rewriting.writer import GraphWriter

__all__ = ["NCHWC", "has_products", "pack_products"]

NCHWC = "com.microsoft.nchwc"
"""The domain of operators on blocked channels."""

_ROWS = range(2, 257)
"""One row needs no packing; many rows cost more than packing."""

_SMALLEST_BYTES = 256 << 10
"""Smaller weights are packed faster than their operands are reordered."""

_PRODUCTS = {
    ("", "MatMul"),
    ("", "Gemm"),
    ("com.microsoft", "FusedMatMul"),
    ("com.microsoft", "FusedGemm"),
}
_NEUTRAL = {
    "alpha": 1.0,
    "beta": 1.0,
    "transA": 0,
    "transBatchA": 0,
    "transBatchB": 0,
    "activation": b"Relu",
}
"""The only values of attributes that a convolution can follow; ``transB`` may be any."""

_ONE_PIXEL: Mapping[str, Any] = {
    "kernel_shape": [1, 1],
    "strides": [1, 1],
    "dilations": [1, 1],
    "pads": [0, 0, 0, 0],
    "group": 1,
}


@dataclass(frozen=True)
class _Product:
    """A product and what its convolution computes with it.

    Attributes
    ----------
    source
        Value that is multiplied, before a Reshape that only joins its rows.
    transposed
        The weight is stored by output channel.
    output
        Output of the last operator that the convolution stands for.
    absorbed
        Indices of the operators after the product that it stands for.
    """

    source: Value
    weight: Constant
    transposed: bool
    bias: str
    relu: bool
    output: str
    absorbed: tuple[int, ...]

    @property
    def channels(self) -> int:
        """Columns of the product."""
        return self.weight.shape[0 if self.transposed else 1]


def has_products(graph: Graph, block: int) -> bool:
    """Whether any product can be packed if its rows are few.

    Parameters
    ----------
    block
        Channels that lie together in the NCHWc layout.
    """
    return any(_weight(graph, index, block) for index in range(len(graph.nodes)))


def pack_products(graph: Graph, block: int, path: Path) -> Graph:
    """Replace products of few rows by convolutions.

    The graph has planned shapes; it reads the rearranged weights from ``path``. ``block`` channels
    lie together in the NCHWc layout.
    """
    products = {
        index: product
        for index in range(len(graph.nodes))
        if (product := _product(graph, index, block))
    }
    if not products:
        return graph
    absorbed = {index for product in products.values() for index in product.absorbed}
    writer = _Writer(graph)
    for index, node in enumerate(graph.nodes):
        if index in products:
            writer.convolution(products[index])
        elif index not in absorbed:
            writer.nodes.append(node)
    nodes = _without_unused_reshapes(graph, writer.nodes)
    written = {name for node in nodes for name in node.output}
    given = {value.name for value in graph.inputs}
    weights = _rearranged(list(products.values()), block, path)
    return replace(
        writer.graph(),
        nodes=nodes,
        constants={**graph.constants, **weights},
        values={n: v for n, v in writer.values.items() if n in written or n in given},
        opset_imports=_with_nchwc(graph.opset_imports),
    )


def _weight(graph: Graph, index: int, block: int) -> Constant | None:
    """The weight of a product that a convolution can compute; None for other operators."""
    node = graph.nodes[index]
    if (node.domain, node.op_type) not in _PRODUCTS or not _is_plain(node):
        return None
    weight = graph.constants.get(node.input[1])
    fits = (
        weight is not None
        and weight.dtype == "float32"
        and len(weight.shape) == 2
        and weight.nbytes >= _SMALLEST_BYTES
        and all(size % block == 0 for size in weight.shape)
        and len(graph.readers[weight.name]) == 1
    )
    return weight if fits else None


def _is_plain(node: onnx.NodeProto) -> bool:
    return all(
        helper.get_attribute_value(a) == _NEUTRAL.get(a.name)
        for a in node.attribute
        if a.name != "transB"
    )


def _product(graph: Graph, index: int, block: int) -> _Product | None:
    node = graph.nodes[index]
    weight = _weight(graph, index, block)
    value = graph.values.get(node.input[0]) if weight else None
    if weight is None or value is None or len(value.planned) not in (2, 3):
        return None
    if prod(value.planned[:-1]) not in _ROWS:
        return None
    transposed = any(a.name == "transB" and a.i for a in node.attribute)
    channels = weight.shape[0 if transposed else 1]
    bias = node.input[2] if len(node.input) > 2 else ""
    if bias and not _is_bias(graph, bias, channels):
        return None
    relu = any(a.name == "activation" for a in node.attribute)
    output, absorbed = node.output[0], list[int]()
    while not relu and (follower := _follower(graph, output)) is not None:
        after = graph.nodes[follower]
        relu = after.op_type == "Relu"
        if not relu:
            added = next((n for n in after.input if n != output), "")
            if after.op_type != "Add" or bias or not _is_bias(graph, added, channels):
                break
            bias = added
        absorbed.append(follower)
        output = after.output[0]
    source = _source(graph, value)
    return _Product(source, weight, transposed, bias, relu, output, tuple(absorbed))


def _follower(graph: Graph, name: str) -> int | None:
    """The operator that alone needs a value."""
    readers = graph.readers.get(name, ())
    return readers[0] if len(readers) == 1 and name not in {v.name for v in graph.outputs} else None


def _is_bias(graph: Graph, name: str, channels: int) -> bool:
    constant = name in graph.constants or name in graph.inline
    return constant and graph.shapes(name)[1] == (channels,)


def _source(graph: Graph, value: Value) -> Value:
    """The value before a Reshape that joined its rows, else the value itself."""
    index = graph.producers.get(value.name)
    if index is None or graph.nodes[index].op_type != "Reshape" or len(value.shape) != 2:
        return value
    whole = graph.values.get(graph.nodes[index].input[0])
    joins = whole is not None and len(whole.shape) in (2, 3) and whole.shape[-1] == value.shape[-1]
    return whole if whole is not None and joins and isinstance(whole.shape[-1], int) else value


def _without_unused_reshapes(graph: Graph, nodes: Sequence[onnx.NodeProto]) -> list[onnx.NodeProto]:
    """Operators but for Reshapes of rows that products read unjoined now."""
    used = {name for node in nodes for name in used_names(node)} | {v.name for v in graph.outputs}
    return [node for node in nodes if node.op_type != "Reshape" or node.output[0] in used]


def _rearranged(products: Sequence[_Product], block: int, path: Path) -> dict[str, Constant]:
    """The weights as convolutions read them, in a file and mapped from there."""
    offsets = []
    with path.open("wb") as file:
        for product in products:
            offsets.append(file.tell())
            file.write(_blocked(product, block).data)
    constants: dict[str, Constant] = {}
    for product, offset in zip(products, offsets, strict=True):
        whole, channels = product.weight, product.channels
        shape = (channels, prod(whole.shape) // channels, 1, 1)
        constants[whole.name] = Constant.mapped(whole.name, "float32", shape, path, offset)
    return constants


def _blocked(product: _Product, block: int) -> npt.NDArray[np.float32]:
    """Weight by blocks of output channels, blocks of input channels, input and output channels."""
    weight = product.weight.bytes().view(np.float32).reshape(product.weight.shape)
    matrix = weight.T if product.transposed else weight
    rows, columns = matrix.shape
    blocks = matrix.reshape(rows // block, block, columns // block, block)
    return np.ascontiguousarray(blocks.transpose(2, 0, 1, 3))


def _with_nchwc(imports: Sequence[onnx.OperatorSetIdProto]) -> list[onnx.OperatorSetIdProto]:
    known = any(entry.domain == NCHWC for entry in imports)
    return [*imports, *([] if known else [helper.make_opsetid(NCHWC, 1)])]


def _permuted(value: Value, name: str, axes: Sequence[int]) -> Value:
    shape = tuple(value.shape[axis] for axis in axes)
    return replace(value, name=name, shape=shape, planned=tuple(value.planned[a] for a in axes))


class _Writer(GraphWriter):
    """Writes products as convolutions."""

    def __init__(self, graph: Graph) -> None:
        super().__init__(graph)
        self._blocked: dict[str, Value] = {}

    def convolution(self, product: _Product) -> None:
        """Write a product as one: it reads a row as a pixel, a column as a channel."""
        columns = product.channels
        blocked = self._blocked.get(product.source.name) or self._reorder(product.source)
        convolved = replace(
            blocked,
            name=self.fresh(f"{product.output}/blocked"),
            shape=(1, columns, *blocked.shape[2:]),
            planned=(1, columns, *blocked.planned[2:]),
        )
        rows = _permuted(convolved, self.fresh(f"{product.output}/pixels"), (0, 2, 3, 1))
        inputs = [blocked.name, product.weight.name, *filter(None, [product.bias])]
        activation = {"activation": "Relu"} if product.relu else {}
        self.write("Conv", inputs, convolved, NCHWC, **_ONE_PIXEL, **activation)
        layout = {"channels": columns, "channels_last": 1}
        self.write("ReorderOutput", [convolved.name], rows, NCHWC, **layout)
        output = self.values[product.output]
        if len(output.planned) == 3:
            self._axes("Squeeze", rows.name, output, [0])
        else:
            shape = self.integers(f"{output.name}/shape", [-1, columns])
            self.write("Reshape", [rows.name, shape], output)

    def _reorder(self, source: Value) -> Value:
        """Write what blocks the channels of ``source``, once for all its users."""
        axes = list(range(4 - len(source.planned)))
        pixels = replace(
            source,
            name=self.fresh(f"{source.name}/pixels"),
            shape=(*(1 for _ in axes), *source.shape),
            planned=(*(1 for _ in axes), *source.planned),
        )
        blocked = _permuted(pixels, self.fresh(f"{source.name}/blocked"), (0, 3, 1, 2))
        self._axes("Unsqueeze", source.name, pixels, axes)
        self.write("ReorderInput", [pixels.name], blocked, NCHWC, channels_last=1)
        self._blocked[source.name] = blocked
        return blocked

    def _axes(self, kind: str, name: str, output: Value, axes: list[int]) -> None:
        """Write an operator whose axes are an attribute or an input."""
        if self.opset < 13:
            self.write(kind, [name], output, axes=axes)
        else:
            self.write(kind, [name, self.integers(f"{output.name}/axes", axes)], output)
