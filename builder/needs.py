"""Memory that a build needs, estimated before it starts."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

import onnx

from swapnet.builder.importing.external_data import stored_bytes, stored_tensors
from swapnet.builder.importing.inferred import inferred_shapes
from swapnet.builder.importing.source import SourceModel
from swapnet.builder.importing.symbols import likely_shapes
from swapnet.builder.options import BuildOptions
from swapnet.builder.rewriting.stand_ins import LEAST_SAVED_BYTES
from swapnet.machine import memory_to_measure_in_bytes
from swapnet.units import align_up

__all__ = ["needed_bytes"]

_PROCESSES_BYTES = 80 << 20
"""The command, and the process that builds, before they have read anything."""

_MEASURING_BYTES = 60 << 20
"""The process that measures blocks, with an engine of one operator; together 122 MiB were measured,
as forked processes share what they have loaded."""

_BLOCK_BYTES = 350 << 10
_OPERATOR_BYTES = 100 << 10
"""Its sessions, of which several sets are tried in turn: fitted to VGG-19, BERT-base and a product
of 308 blocks."""

_VALUES = 5
"""Copies of an operator's values in it: in its arena under several limits, and around it."""

_GRAPHS = 4
"""Copies of the model without its weights."""

_AS_THEY_ARE = frozenset({"MatMul", "Gemm", "Gather", "LSTM", "GRU", "RNN"})
"""Operators whose weights stay on disk while ONNX Runtime optimises. It keeps two copies of others,
which it rearranges, and of a convolution three. One stands for all of a shape (`StandIns`) where
that saves much, in 3 to 4 copies: ResNet-101, YOLOv3 and FCN-ResNet101 were measured."""


def needed_bytes(source: SourceModel, options: BuildOptions) -> int:
    """The most memory that all processes of a build take together, about, in whole MiB.

    Delays are measured with the weights in memory where they fit. Files that are mapped or cached
    are not counted: the kernel takes their pages back. Compilers of TensorRT take more, which only
    they know.
    """
    graph = source.proto.graph
    shapes = likely_shapes(graph, options.shapes, options.dims)
    weights = [
        (tensor.name, dims, stored_bytes(dims, tensor.data_type))
        for tensor, dims in stored_tensors(source.proto)
    ]
    stays = {name for node in graph.node if node.op_type in _AS_THEY_ARE for name in node.input}
    stands = {n.input[1] for n in graph.node if n.op_type == "Conv" and len(n.input) > 1}
    by_shape = {tuple(dims): nbytes for name, dims, nbytes in weights if name in stands}
    changed = sum(nbytes for name, _, nbytes in weights if name not in stays | stands)
    largest = max((nbytes for *_, nbytes in weights), default=0)
    convolved = sum(nbytes for name, _, nbytes in weights if name in stands)
    saves = convolved - sum(by_shape.values()) >= LEAST_SAVED_BYTES
    optimising_bytes = (
        largest + 2 * changed + (4 * sum(by_shape.values()) if saves else 3 * convolved)
    )
    blocks = source.read_bytes // options.limits(source).max_block_bytes
    measuring_bytes = (
        _MEASURING_BYTES
        + _VALUES * _largest_values_bytes(source.proto, shapes)
        + _BLOCK_BYTES * blocks
        + _OPERATOR_BYTES * len(graph.node)
    )
    held_bytes = min(source.weights_bytes, 2 * memory_to_measure_in_bytes())
    base_bytes = _PROCESSES_BYTES + _GRAPHS * source.proto.ByteSize()
    return align_up(base_bytes + max(optimising_bytes, measuring_bytes, held_bytes), 1 << 20)


def _largest_values_bytes(proto: onnx.ModelProto, shapes: Mapping[str, tuple[int, ...]]) -> int:
    """The most bytes of values that one operator reads and writes, as float32 of known shape."""
    nbytes = {name: 4 * prod(shape) for name, shape in inferred_shapes(proto, shapes).items()}
    return max(
        sum(nbytes.get(name, 0) for name in {*node.input, *node.output})
        for node in proto.graph.node
    )
