"""Operators of a normalised model that compute in int8, and values that they need ranges of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

import onnx

from swapnet.errors import InputError, ModelError

__all__ = [
    "Channels",
    "Weighted",
    "activation_names",
    "channel_axis",
    "channelled",
    "channels_of",
    "check_excluded",
    "check_int8",
    "quantisable",
    "weighted",
]

_WEIGHT = {"Conv": 0, "ConvTranspose": 1, "Gemm": 1, "MatMul": 1}
"""Kinds that multiply by a weight, their second input, and the axis of its output channels."""

_CONVOLUTIONS = frozenset({"Conv", "ConvTranspose"})

_CARRIERS = frozenset(
    {
        *("Relu", "Clip", "LeakyRelu", "Add", "Concat"),
        *("MaxPool", "AveragePool", "GlobalAveragePool", "Resize"),
        *("Flatten", "Reshape", "Squeeze", "Unsqueeze", "Transpose"),
    }
)
"""Kinds with int8 kernels that lose little: int8 where all that they read is int8 already."""


@dataclass(frozen=True)
class Weighted:
    """An operator and its weight.

    Attributes
    ----------
    node
        Kinds: Conv, ConvTranspose, Gemm, MatMul.
    weight
        Name of the float32 initialiser.
    axis
        Axis of output channels in the weight; None where one scale must do for all of it.
    """

    node: onnx.NodeProto
    weight: str
    axis: int | None


@dataclass(frozen=True)
class Channels:
    """Axis and number of the channels of what a weighted operator reads; each has a mean."""

    axis: int
    count: int


def weighted(graph: onnx.GraphProto, *, exclude: Collection[str] = ()) -> tuple[Weighted, ...]:
    """Operators of a normalised model that multiply by a float32 weight, with no other reader."""
    tensors = {t.name: t for t in graph.initializer if t.data_type == 1}
    found = [
        Weighted(node, node.input[1], channel_axis(node, len(tensors[node.input[1]].dims)))
        for node in graph.node
        if node.op_type in _WEIGHT and node.domain in ("", "ai.onnx") and node.name not in exclude
        if node.input[1] in tensors and node.input[0] != node.input[1]
    ]
    readers: dict[str, set[int]] = {}
    for index, node in enumerate(graph.node):
        for name in node.input:
            readers.setdefault(name, set()).add(index)
    axes: dict[str, set[int | None]] = {}
    for one in found:
        axes.setdefault(one.weight, set()).add(one.axis)
    reading = Counter(one.weight for one in found)
    return tuple(
        one
        for one in found
        if len(axes[one.weight]) == 1 and len(readers[one.weight]) == reading[one.weight]
    )


def channel_axis(node: onnx.NodeProto, rank: int) -> int | None:
    """Axis of output channels in a weight of ``rank`` dimensions; None if one scale is for all."""
    attributes = {a.name: a.i for a in node.attribute}
    if node.op_type == "Gemm":
        return 0 if attributes.get("transB", 0) else 1
    if node.op_type == "MatMul":
        return 1 if rank == 2 else None
    if node.op_type == "ConvTranspose" and attributes.get("group", 1) > 1:
        return None
    return _WEIGHT[node.op_type]


def channelled(graph: onnx.GraphProto) -> dict[str, Channels]:
    """Inputs of weighted operators by name, where rounding weights shifts outputs by their means.

    Left out are those of transposed convolutions, of which each output sees another part of the
    weight, of transposed products and of products with stacks of matrices.
    """
    dims = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    found: dict[str, Channels] = {}
    mixed: set[str] = set()
    for one in weighted(graph):
        channels = channels_of(one.node, dims[one.weight])
        name = one.node.input[0]
        if channels is not None and found.setdefault(name, channels) != channels:
            mixed.add(name)
    return {name: channels for name, channels in found.items() if name not in mixed}


def channels_of(node: onnx.NodeProto, dims: tuple[int, ...]) -> Channels | None:
    """Channels that an operator with such a weight reads; None where `channelled` leaves it out."""
    attributes = {a.name: a.i for a in node.attribute}
    if node.op_type == "Conv":
        return Channels(1, dims[1] * attributes.get("group", 1))
    if node.op_type == "ConvTranspose" or len(dims) != 2 or attributes.get("transA", 0):
        return None
    return Channels(-1, dims[1 - (channel_axis(node, 2) or 0)])


def quantisable(
    graph: onnx.GraphProto, *, exclude: Collection[str] = ()
) -> tuple[onnx.NodeProto, ...]:
    """Operators to compute in int8: weighted ones, and what carries convolutions' outputs on.

    Products of transformers give float32: what follows them (normalisation, residual sums) is
    where 8 bits lose most.
    """
    compute = {one.node.name for one in weighted(graph, exclude=exclude)}
    constants = {tensor.name for tensor in graph.initializer}
    carried: set[str] = set()
    chosen: list[onnx.NodeProto] = []
    for node in graph.node:
        if node.name in compute:
            chosen.append(node)
            if node.op_type in _CONVOLUTIONS:
                carried.update(node.output)
        elif (
            node.op_type in _CARRIERS
            and node.name not in exclude
            and (data := _data(node, constants))
            and carried.issuperset(data)
        ):
            chosen.append(node)
            carried.update(node.output)
    return tuple(chosen)


def _data(node: onnx.NodeProto, constants: Collection[str]) -> tuple[str, ...]:
    """Inputs that are values; empty where a float constant is one of several of equal rank."""
    if node.op_type in ("Add", "Concat"):
        return () if any(name in constants for name in node.input) else tuple(node.input)
    return (node.input[0],)


def activation_names(graph: onnx.GraphProto, *, exclude: Collection[str] = ()) -> tuple[str, ...]:
    """Values whose ranges int8 needs: what `quantisable` operators read and write, in order."""
    constants = {tensor.name for tensor in graph.initializer}
    return tuple(
        dict.fromkeys(
            name
            for node in quantisable(graph, exclude=exclude)
            for name in (*_read(node, constants), *node.output[:1])
        )
    )


def _read(node: onnx.NodeProto, constants: Collection[str]) -> Iterator[str]:
    inputs = node.input if node.op_type in ("Add", "Concat") else node.input[:1]
    yield from (name for name in inputs if name and name not in constants)


def check_int8(graph: onnx.GraphProto, name: str) -> None:
    """Refuse a model of which nothing computes in int8.

    Raises
    ------
    ModelError
        None of its operators does.
    """
    if not weighted(graph):
        raise ModelError(
            f"nothing of {name} computes in int8",
            why=f"{', '.join(_WEIGHT)} do, where a float32 weight is their second input; of its "
            f"{len(graph.node)} operators none is such",
            hint="add --weight-only: weights stored as int8, computed with in float32",
        )


def check_excluded(graph: onnx.GraphProto, exclude: Collection[str]) -> None:
    """Refuse names that no operator has.

    Raises
    ------
    InputError
        There is no operator of such a name.
    """
    names: Mapping[str, str] = {node.name: node.op_type for node in graph.node}
    unknown = [name for name in exclude if name not in names]
    if unknown:
        raise InputError(
            f"there is no operator {unknown[0]!r} to exclude",
            why=f"the model has {len(names)}, the first is {next(iter(names))!r}",
            hint="see their names: swapnet accuracy … --per-layer",
        )
