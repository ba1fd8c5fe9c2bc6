"""The graph between ONNX and blocks: operators in execution order, constants left on disk."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper
from onnx.external_data_helper import ExternalDataInfo, uses_external_data

from swapnet.tensors import ELEMENT_BYTES, ONNX_TYPES, concrete_nbytes

if TYPE_CHECKING:
    from pathlib import Path

    Copied = TypeVar("Copied", onnx.NodeProto, onnx.ModelProto)

__all__ = [
    "Constant",
    "Graph",
    "Value",
    "bodies",
    "copied",
    "external_bytes",
    "in_execution_order",
    "read_constant",
    "used_names",
]

_DTYPES = {number: name for name, number in ONNX_TYPES.items()}


@dataclass(frozen=True)
class Value:
    """Type of a tensor; a string is a symbolic dimension.

    Attributes
    ----------
    planned
        Shape at the planned input shapes; empty until they are known.
    smallest
        Shape at the smallest input shapes; empty where none were given.
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]
    planned: tuple[int, ...] = ()
    smallest: tuple[int, ...] = ()

    @property
    def nbytes(self) -> int | None:
        """Bytes at the planned shapes; None for what can't be swapped or bound."""
        return concrete_nbytes(self.dtype, self.planned) if self.dtype in ELEMENT_BYTES else None


@dataclass(frozen=True)
class Constant:
    """A weight that can be swapped.

    Attributes
    ----------
    data
        Its bytes, usually a memory map: uint8, one-dimensional.
    axis, start, stop
        The slice that it is of a larger weight: ``whole.take(range(start, stop), axis)``.
        ``axis`` is None for a whole one.
    """

    name: str
    dtype: str
    whole_shape: tuple[int, ...]
    data: npt.NDArray[np.uint8]
    axis: int | None = None
    start: int = 0
    stop: int = 0

    @staticmethod
    def mapped(name: str, dtype: str, shape: tuple[int, ...], path: Path, start: int) -> Constant:
        """A whole weight with bytes that stay in a file, from byte ``start`` on."""
        nbytes = prod(shape) * ELEMENT_BYTES[dtype]
        return Constant(name, dtype, shape, np.memmap(path, np.uint8, "r", start, (nbytes,)))

    @property
    def shape(self) -> tuple[int, ...]:
        """Dimensions of the slice, or of the whole."""
        if self.axis is None:
            return self.whole_shape
        dims = list(self.whole_shape)
        dims[self.axis] = self.stop - self.start
        return tuple(dims)

    @property
    def nbytes(self) -> int:
        """Bytes of the slice, or of the whole."""
        return prod(self.shape) * ELEMENT_BYTES[self.dtype]

    def slice(self, name: str, axis: int, start: int, stop: int) -> Constant:
        """The part ``start:stop`` along ``axis``."""
        return Constant(name, self.dtype, self.whole_shape, self.data, axis, start, stop)

    def bytes(self) -> npt.NDArray[np.uint8]:
        """The bytes to store, C-contiguous: uint8, shape ``(nbytes,)``."""
        if self.axis is None:
            return self.data
        element = ELEMENT_BYTES[self.dtype]
        whole = self.data.reshape(*self.whole_shape, element)
        index = (slice(None),) * self.axis + (slice(self.start, self.stop),)
        return np.ascontiguousarray(whole[index]).reshape(-1)


@dataclass(frozen=True)
class Graph:
    """A model in execution order.

    Attributes
    ----------
    nodes
        Operators; no Constant nodes, topologically sorted.
    constants
        Weights that can be swapped.
    inline
        Constants too small to be swapped, or that carry shapes: they stay in the skeletons.
    values
        Types of the inputs and of every operator's outputs.
    sliced
        Outputs of operators that were split.
    samples
        Files of the inputs that the planned shapes are of; none for seeded ones.
    symbols
        Planned sizes of the symbols in shapes of inputs, and of those that the graph fixes.
    packing
        First outputs of the operators whose weights must be constants: kernels pack them.
    formulas
        Symbolic dimensions as expressions of the sizes ``_0``, ``_1`` … of the inputs' symbols.
    """

    name: str
    nodes: Sequence[onnx.NodeProto]
    constants: Mapping[str, Constant]
    inline: Mapping[str, onnx.TensorProto]
    values: Mapping[str, Value]
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    opset_imports: Sequence[onnx.OperatorSetIdProto]
    ir_version: int
    sliced: tuple[str, ...] = ()
    samples: tuple[Path, ...] = ()
    symbols: Mapping[str, int] = field(default_factory=dict)
    packing: frozenset[str] = frozenset()
    formulas: Mapping[str, str] = field(default_factory=dict)
    weights_of: Mapping[int, tuple[str, ...]] = field(init=False)

    def __post_init__(self) -> None:
        weights = {
            index: tuple(dict.fromkeys(n for n in used_names(node) if n in self.constants))
            for index, node in enumerate(self.nodes)
        }
        object.__setattr__(self, "weights_of", weights)

    @cached_property
    def producers(self) -> Mapping[str, int]:
        """Index of the operator that computes each value."""
        return {name: i for i, node in enumerate(self.nodes) for name in node.output if name}

    @cached_property
    def readers(self) -> Mapping[str, Sequence[int]]:
        """Indices of the operators that read each name, those in bodies included."""
        readers: dict[str, list[int]] = {}
        for index, node in enumerate(self.nodes):
            for name in dict.fromkeys(used_names(node)):
                readers.setdefault(name, []).append(index)
        return readers

    @cached_property
    def has_tokens(self) -> bool:
        """Whether tensors of three axes are (N, tokens, features): none is convolved."""
        return not any(
            "Conv" in node.op_type and len(self.values[node.output[0]].planned) == 3
            for node in self.nodes
            if node.output[0] in self.values
        )

    def shapes(self, name: str) -> tuple[tuple[int | str, ...], tuple[int, ...]]:
        """Declared and planned shape of a value or a constant."""
        if name in self.values:
            return self.values[name].shape, self.values[name].planned
        dims = self.constants[name].shape if name in self.constants else self.inline[name].dims
        return tuple(dims), tuple(dims)


def in_execution_order(nodes: Sequence[onnx.NodeProto]) -> list[onnx.NodeProto]:
    """Sorted as ONNX Runtime's priority-based order executes: lowest index that is ready first.

    Shape and Size go before all others that are ready (``graph.cc``, ``PriorityNodeCompare``).
    """
    producer = {name: i for i, node in enumerate(nodes) for name in node.output if name}
    waits = [{producer[n] for n in used_names(node) if n in producer} for node in nodes]
    followers: dict[int, list[int]] = {}
    for index, needed in enumerate(waits):
        for other in needed:
            followers.setdefault(other, []).append(index)
    ready = [
        (nodes[i].op_type not in ("Shape", "Size"), i)
        for i, needed in enumerate(waits)
        if not needed
    ]
    heapq.heapify(ready)
    order: list[onnx.NodeProto] = []
    while ready:
        _, index = heapq.heappop(ready)
        order.append(nodes[index])
        for other in followers.get(index, ()):
            waits[other].discard(index)
            if not waits[other]:
                heapq.heappush(ready, (nodes[other].op_type not in ("Shape", "Size"), other))
    return order


def copied(message: Copied) -> Copied:
    """A copy that may be changed."""
    copy = type(message)()
    copy.CopyFrom(message)
    return copy


def bodies(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The subgraphs of an operator: branches of If, bodies of Loop and Scan."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def used_names(node: onnx.NodeProto) -> Iterator[str]:
    """Names that an operator reads, those captured by its subgraphs included."""
    yield from filter(None, node.input)
    for graph in bodies(node):
        own = {v.name for v in graph.input} | {t.name for t in graph.initializer}
        for inner in graph.node:
            yield from (name for name in used_names(inner) if name not in own)
            own.update(inner.output)
        yield from (v.name for v in graph.output if v.name not in own)


def read_constant(tensor: onnx.TensorProto, folder: Path) -> Constant | None:
    """A stored tensor; None if it is empty or of a type that can't be swapped.

    External data in ``folder`` stays on disk behind a memory map.
    """
    dtype = _DTYPES.get(tensor.data_type)
    shape = tuple(tensor.dims)
    if dtype is None or 0 in shape:
        return None
    if uses_external_data(tensor):
        info = ExternalDataInfo(tensor)
        path = folder / info.location
        return Constant.mapped(tensor.name, dtype, shape, path, info.offset or 0)
    if tensor.HasField("raw_data"):
        data = np.frombuffer(tensor.raw_data, np.uint8)
    else:
        data = np.frombuffer(numpy_helper.to_array(tensor).tobytes(), np.uint8)
    return Constant(tensor.name, dtype, shape, data)


def external_bytes(tensor: onnx.TensorProto, folder: Path) -> bytes:
    """Bytes of a tensor's external data; the onnx package reads no file that has several links.

    Parameters
    ----------
    tensor
        With external data, in a file that is ours.
    folder
        Where the model lies.
    """
    info = ExternalDataInfo(tensor)
    with (folder / info.location).open("rb") as file:
        file.seek(info.offset or 0)
        return file.read(-1 if info.length is None else info.length)
