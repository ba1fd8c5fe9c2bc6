"""Quantised convolutions as products: no kernel rearranges their weights in every call.

ONNX Runtime keeps no rearranged copy of a weight here, so its quantised convolution turns the whole
weight round each time, and its product does so with a transposed one. A product with the weight as
``[K, N]`` reads it as it lies, and gives the same integers: the pixels that a kernel covers are
gathered by slices.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import chain, product
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from swapnet.builder.importing.graph import Constant, Graph, Value, copied, in_execution_order
from swapnet.builder.rewriting.operator_times import Candidate, candidate, time_alternatives
from swapnet.builder.rewriting.writer import GraphWriter

__all__ = ["Measure", "has_quantised", "product_forms", "wins"]

Measure = Callable[[Sequence[Candidate]], Sequence[float]]
"""Times of alternatives in milliseconds: `time_alternatives`."""

_SMALLEST_BYTES = 64 << 10
"""Smaller weights are turned round faster than operators are called."""

_GAIN = 1.1
"""Factor by which a product must be faster to take a convolution's place."""

_OPSET = 13
"""Since which operator set slices, paddings and shapes are written as they are here."""

_MICROSOFT = "com.microsoft"
_INTEGERS = ("int8", "uint8")
_PIECE_BYTES = 4 << 20
_LAST = (1 << 63) - 1
"""The end of a slice that has none."""


@dataclass(frozen=True)
class _Convolution:
    """A quantised convolution with channels last and one group.

    Attributes
    ----------
    pads
        Before and after, by spatial axis.
    """

    node: onnx.NodeProto
    weight: Constant
    source: Value
    output: Value
    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[tuple[int, int], ...]

    @property
    def channels(self) -> int:
        """Columns of the product."""
        return self.weight.shape[0]

    @property
    def columns(self) -> int:
        """Elements of a row: what the kernel covers, position by position."""
        return prod(self.weight.shape[1:])


def has_quantised(graph: Graph) -> bool:
    """Whether any operator could be written otherwise."""
    return any(
        _transposed(graph, node) or _weight(graph, node, "QLinearConv") for node in graph.nodes
    )


def product_forms(graph: Graph, path: Path, *, measure: Measure = time_alternatives) -> Graph:
    """Replace quantised convolutions by products where those are faster, to the same integers.

    Products with transposed weights are always replaced. The graph has planned shapes; it reads the
    rearranged weights from ``path``.
    """
    writer = _Writer(graph)
    rearranged: list[Constant] = []
    for node in graph.nodes:
        convolution = _convolution(graph, node)
        if convolution is not None and wins(measure(_alternatives(graph, convolution))):
            writer.convolution(convolution)
            rearranged.append(convolution.weight)
        elif (weight := _transposed(graph, node)) is not None:
            writer.product(node)
            rearranged.append(weight)
        else:
            writer.nodes.append(node)
    if not rearranged:
        return graph
    with path.open("wb") as file:
        offsets = [_write(weight, file) for weight in rearranged]
    weights = {
        weight.name: _matrix(weight, np.memmap(path, np.uint8, "r", offset, (weight.nbytes,)))
        for weight, offset in zip(rearranged, offsets, strict=True)
    }
    written = writer.graph()
    return replace(
        written,
        nodes=in_execution_order(written.nodes),
        constants={**written.constants, **weights},
    )


def wins(times_ms: Sequence[float]) -> bool:
    """Whether the second of two alternatives is enough faster than the first."""
    first, second = times_ms
    return first > _GAIN * second


def _weight(graph: Graph, node: onnx.NodeProto, kind: str) -> Constant | None:
    """The weight of a quantised operator of ONNX Runtime's, if it may be rearranged."""
    if (node.domain, node.op_type) != (_MICROSOFT, kind):
        return None
    weight = graph.constants.get(node.input[3])
    fits = (
        weight is not None
        and weight.dtype in _INTEGERS
        and weight.nbytes >= _SMALLEST_BYTES
        and len(graph.readers[weight.name]) == 1
        and list(node.input).count(weight.name) == 1
    )
    return weight if fits else None


def _transposed(graph: Graph, node: onnx.NodeProto) -> Constant | None:
    """The weight of a product that reads it transposed."""
    weight = _weight(graph, node, "QGemm")
    return weight if weight and len(weight.shape) == 2 and _attributes(node).get("transB") else None


def _convolution(graph: Graph, node: onnx.NodeProto) -> _Convolution | None:
    """A convolution that a product can compute; None for other operators."""
    weight = _weight(graph, node, "QLinearConv")
    opset = next(o.version for o in graph.opset_imports if o.domain in ("", "ai.onnx"))
    source, output = graph.values.get(node.input[0]), graph.values[node.output[0]]
    if weight is None or source is None or opset < _OPSET:
        return None
    attributes = _attributes(node)
    rank = len(weight.shape) - 2
    ends = attributes.get("pads", [0] * 2 * rank)
    found = _Convolution(
        node,
        weight,
        source,
        output,
        weight.shape[2:],
        tuple(attributes.get("strides", [1] * rank)),
        tuple(attributes.get("dilations", [1] * rank)),
        tuple(zip(ends[:rank], ends[rank:], strict=True)),
    )
    fits = (
        attributes.get("channels_last", 0) == 1
        and attributes.get("group", 1) == 1
        and attributes.get("auto_pad", b"NOTSET") == b"NOTSET"
        and len(source.planned) == len(output.planned) == rank + 2
        and min(ends, default=0) >= 0
        and _is_scaled(graph, node, found.channels)
    )
    return found if fits else None


def _is_scaled(graph: Graph, node: onnx.NodeProto, channels: int) -> bool:
    """Whether scales and zero points of a weight are constants, for all or for each channel."""
    given = node.input[4:6]
    constant = all(name in graph.constants or name in graph.inline for name in given)
    return constant and all(graph.shapes(n)[1] in ((), (1,), (channels,)) for n in given)


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {a.name: helper.get_attribute_value(a) for a in node.attribute}


def _alternatives(graph: Graph, convolution: _Convolution) -> tuple[Candidate, Candidate]:
    """A convolution and its product."""
    alone = replace(
        graph, nodes=[convolution.node], inputs=(convolution.source,), outputs=(convolution.output,)
    )
    writer = _Writer(alone)
    writer.convolution(convolution)
    weight = convolution.weight
    written = writer.graph()
    constants = {**written.constants, weight.name: _matrix(weight, weight.data)}
    return candidate(alone), candidate(replace(written, constants=constants))


def _matrix(weight: Constant, data: npt.NDArray[np.uint8]) -> Constant:
    """A weight as ``[K, N]``."""
    shape = (prod(weight.shape[1:]), weight.shape[0])
    return Constant(weight.name, weight.dtype, shape, data)


def _write(weight: Constant, file: BinaryIO) -> int:
    """Append a weight as ``[K, N]``: by position in the kernel, input and output channel.

    Returns
    -------
    int
        Where it starts.
    """
    start = file.tell()
    channels, inner, *kernel = weight.shape
    whole = weight.bytes().reshape(channels, inner, prod(kernel))
    step = max(_PIECE_BYTES // channels, 1)
    for position in range(whole.shape[2]):
        for first in range(0, inner, step):
            piece = whole[:, first : first + step, position]
            file.write(np.ascontiguousarray(piece.T).data)
    return start


class _Writer(GraphWriter):
    """Writes convolutions as products; weights are as they were."""

    def product(self, node: onnx.NodeProto) -> None:
        """Write a product that reads its weight as it lies."""
        copy = copied(node)
        next(a for a in copy.attribute if a.name == "transB").i = 0
        self.nodes.append(copy)

    def convolution(self, found: _Convolution) -> None:
        """Write a product of rows, one for each pixel, and what makes them."""
        node, output = found.node, found.output
        pixels = self._pixels(found)
        rows = prod(output.planned[:-1])
        matrix = self._value(found, "rows", (rows, found.columns), pixels.shape)
        result = self._value(found, "product", (rows, found.channels), pixels.shape, output.dtype)
        shape = self._shape(found, pixels)
        flat = self._shared(f"{matrix.name}/shape", [-1, found.columns])
        self.write("Reshape", [pixels.name, flat], matrix)
        source_scale, source_zero, weight, scale = node.input[1:5]
        bias = node.input[8] if len(node.input) > 8 else ""
        inputs = [matrix.name, source_scale, source_zero, weight, scale, self._zeros(found), bias]
        self.write("QGemm", [*inputs, *node.input[6:8]], result, _MICROSOFT)
        self.write("Reshape", [result.name, shape], output)

    def _shared(self, name: str, numbers: Sequence[int]) -> str:
        """A constant that all shapes and bounds of these numbers share."""
        return self.integers(name, numbers, key=tuple(numbers))

    def _pixels(self, found: _Convolution) -> Value:
        """Write what gives each pixel all that the kernel covers there, as channels."""
        value = found.source
        if any(chain.from_iterable(found.pads)):
            value = self._padded(found)
        if set(found.kernel) | set(found.strides) == {1}:
            return value
        parts = [
            self._slice(found, value, index, position)
            for index, position in enumerate(product(*map(range, found.kernel)))
        ]
        if len(parts) == 1:
            return parts[0]
        pixels = self._value(
            found, "pixels", (*found.output.planned[:-1], found.columns), parts[0].shape
        )
        last = len(pixels.shape) - 1
        self.write("Concat", [part.name for part in parts], pixels, axis=last)
        return pixels

    def _padded(self, found: _Convolution) -> Value:
        """Write the source with its zero point around it."""
        dims = zip(found.source.planned[1:-1], found.pads, strict=True)
        inner = (size + before + after for size, (before, after) in dims)
        first, *_, last = found.source.planned
        padded = self._value(found, "padded", (first, *inner, last), found.source.shape)
        before, after = zip(*found.pads, strict=True)
        pads = self._shared(f"{padded.name}/pads", [0, *before, 0, 0, *after, 0])
        self.write("Pad", [found.source.name, pads, found.node.input[2]], padded)
        return padded

    def _slice(
        self, found: _Convolution, value: Value, index: int, position: tuple[int, ...]
    ) -> Value:
        """Write what one position of the kernel covers in all pixels."""
        shape = (*found.output.planned[:-1], value.planned[-1])
        part = self._value(found, f"part/{index}", shape, value.shape)
        reach = [
            (size - 1) * step for size, step in zip(found.kernel, found.dilations, strict=True)
        ]
        starts = [at * step for at, step in zip(position, found.dilations, strict=True)]
        left = [whole - start for whole, start in zip(reach, starts, strict=True)]
        axes = [axis + 1 for axis in range(len(starts))]
        bounds = {
            "starts": starts,
            "ends": [-size if size else _LAST for size in left],
            "axes": axes,
            "steps": list(found.strides),
        }
        names = [self._shared(f"{part.name}/{name}", given) for name, given in bounds.items()]
        self.write("Slice", [value.name, *names], part)
        return part

    def _shape(self, found: _Convolution, pixels: Value) -> str:
        """The name of the output's shape, which is computed where several dimensions are open."""
        dims = [dim if isinstance(dim, int) else -1 for dim in pixels.shape[:-1]]
        name = f"{found.output.name}/shape"
        if dims.count(-1) < 2:
            return self._shared(name, [*dims, found.channels])
        rank = len(pixels.shape)
        whole, start, shape = (
            self._lengths(f"{name}/{i}", n) for i, n in enumerate((rank, rank - 1, rank))
        )
        self.write("Shape", [pixels.name], whole)
        bounds = [self._shared(f"{start.name}/{i}", [i]) for i in (0, rank - 1)]
        self.write("Slice", [whole.name, *bounds], start)
        channels = self._shared(f"{shape.name}/channels", [found.channels])
        self.write("Concat", [start.name, channels], shape, axis=0)
        return shape.name

    def _lengths(self, name: str, length: int) -> Value:
        return Value(self.fresh(name), "int64", (length,), (length,))

    def _zeros(self, found: _Convolution) -> str:
        """The name of zero points for the weight, as many as there are scales."""
        name = str(found.node.input[5])
        shape = self.source.shapes(found.node.input[4])[1]
        if self.source.shapes(name)[1] == shape:
            return name
        fresh = self.fresh(f"{name}/{found.output.name}")
        zeros = np.full(shape, self._first(name), found.weight.dtype)
        self.inline[fresh] = numpy_helper.from_array(zeros, fresh)
        return fresh

    def _first(self, name: str) -> int:
        """The first number of zero points: a convolution takes only those that are equal."""
        if name in self.source.constants:
            constant = self.source.constants[name]
            numbers = constant.bytes().view(constant.dtype)
        else:
            numbers = numpy_helper.to_array(self.source.inline[name])
        return int(numbers.reshape(-1)[0])

    def _value(
        self,
        found: _Convolution,
        name: str,
        planned: tuple[int, ...],
        like: Sequence[int | str],
        dtype: str = "",
    ) -> Value:
        """A value of the new graph: open where ``like`` is, but for its last dimension."""
        fresh = self.fresh(f"{found.output.name}/{name}")
        if len(like) == len(planned):
            open_axes = [isinstance(dim, str) for dim in like]
        else:
            open_axes = [any(isinstance(dim, str) for dim in like), False]
        shape = tuple(
            f"{fresh}.{axis}" if is_open else size
            for axis, (size, is_open) in enumerate(zip(planned, open_axes, strict=True))
        )
        return Value(fresh, dtype or found.source.dtype, (*shape[:-1], planned[-1]), planned)
