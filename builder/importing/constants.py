"""Constants of a model that are weights, those in the bodies of If, Loop and Scan included.

A body sees the names of the graph around it. Its weights are moved there, so that they become
inputs of the skeleton like any other weight.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import count
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnx.external_data_helper import uses_external_data

from swapnet.builder.importing.graph import Constant, bodies, external_bytes, read_constant

__all__ = ["INLINE_BELOW_BYTES", "SHAPE_INPUTS", "keep_only", "read_weights"]

INLINE_BELOW_BYTES = 1024
"""Smaller constants stay in the skeletons."""

SHAPE_INPUTS: Mapping[str, tuple[int, ...]] = {
    **dict.fromkeys(("Reshape", "Expand", "Tile", "Upsample"), (1,)),
    **dict.fromkeys(("Squeeze", "Unsqueeze", "Split", "TopK", "OneHot", "Trilu", "CumSum"), (1,)),
    **dict.fromkeys(("CenterCropPad", "Col2Im", "AffineGrid"), (1,)),
    **dict.fromkeys(
        (
            *("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1"),
            *("ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceSumSquare"),
        ),
        (1,),
    ),
    "ConstantOfShape": (0,),
    "Loop": (0,),
    "MaxUnpool": (2,),
    "NonMaxSuppression": (2,),
    "Pad": (1, 2, 3),
    "Range": (0, 1, 2),
    "Resize": (1, 2, 3),
    "Slice": (1, 2, 3, 4),
}
"""Positions of inputs that say how large something is, which axes, or how often, by operator."""


_QUANTISED: Mapping[str, tuple[int, ...]] = dict.fromkeys(
    ("QuantizeLinear", "DequantizeLinear"), (1, 2)
)
"""Positions of scales and zero points, which TensorRT takes as constants only."""


def read_weights(
    graph: onnx.GraphProto, folder: Path
) -> tuple[dict[str, Constant], dict[str, onnx.TensorProto]]:
    """The constants of an optimised graph, in which the weights of bodies are moved outside.

    ``graph`` has no Constant operators, as ONNX Runtime saves it, and is changed: weights of bodies
    become initialisers of it; sparse ones become dense; constants that are outputs are computed by
    an operator.

    Returns
    -------
    tuple
        Weights that can be swapped, with data that stays on disk, and constants that stay in the
        skeletons: small ones, those that carry shapes, scales of channels, and those of other
        types.
    """
    _normalise(graph)
    taken = Counter(_defined_names(graph))
    for node in graph.node:
        stored: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        for body in bodies(node):
            _lift(body, graph, folder, taken, stored)
    return _divide(graph, folder)


def _normalise(graph: onnx.GraphProto) -> None:
    """Dense initialisers, each once and none an output; in bodies too."""
    once = {tensor.name: tensor for tensor in graph.initializer}
    if len(once) < len(graph.initializer):  # ONNX Runtime 1.23 to 1.26, in bodies
        keep_only(graph, once.values())
    graph.initializer.extend(map(_dense, graph.sparse_initializer))
    del graph.sparse_initializer[:]
    outputs = {value.name for value in graph.output}
    for tensor in graph.initializer:
        if tensor.name in outputs:
            name = f"{tensor.name}/constant"
            graph.node.insert(0, helper.make_node("Identity", [name], [tensor.name], name=name))
            tensor.name = name
    for node in graph.node:
        for body in bodies(node):
            _normalise(body)


def _dense(sparse: onnx.SparseTensorProto) -> onnx.TensorProto:
    shape = tuple(sparse.dims)
    values = numpy_helper.to_array(sparse.values)
    indices = numpy_helper.to_array(sparse.indices)
    dense = np.zeros(shape, values.dtype)
    dense[np.unravel_index(indices, shape) if indices.ndim == 1 else tuple(indices.T)] = values
    return numpy_helper.from_array(dense, sparse.values.name)


def _lift(
    body: onnx.GraphProto,
    outer: onnx.GraphProto,
    folder: Path,
    taken: Counter[str],
    stored: dict[tuple[str, tuple[int, ...], bytes], str],
) -> None:
    """Move the weights of a body and of those inside it to ``outer``.

    ``taken`` counts the definitions of each name: one that is defined twice gets a fresh one.
    ``stored`` has the name of each moved weight, by type, shape and digest: equal ones move once.
    """
    constants, inline = _divide(body, folder)
    names: dict[str, str] = {}
    for name, constant in constants.items():
        key = (constant.dtype, constant.shape, hashlib.sha256(constant.bytes().data).digest())
        names[name] = stored.get(key) or _fresh(name, taken)
        if key not in stored:
            stored[key] = names[name]
            tensor = next(tensor for tensor in body.initializer if tensor.name == name)
            outer.initializer.add().CopyFrom(tensor)
            outer.initializer[-1].name = names[name]
    keep_only(body, inline.values())
    _rename(body, names)
    for node in body.node:
        for inner in bodies(node):
            _lift(inner, outer, folder, taken, stored)


def _divide(
    graph: onnx.GraphProto, folder: Path
) -> tuple[dict[str, Constant], dict[str, onnx.TensorProto]]:
    """Initialisers that can be swapped, and those that stay, with their data loaded."""
    shaping = set(_names_at(graph.node, SHAPE_INPUTS))
    parameters = set(_names_at(graph.node, _QUANTISED))
    constants: dict[str, Constant] = {}
    inline: dict[str, onnx.TensorProto] = {}
    for tensor in graph.initializer:
        constant = read_constant(tensor, folder)
        if (
            constant is None
            or tensor.name in shaping
            or constant.nbytes < INLINE_BELOW_BYTES
            or (tensor.name in parameters and len(constant.shape) < 2)
        ):
            if uses_external_data(tensor):
                tensor.raw_data = external_bytes(tensor, folder)
                tensor.data_location = tensor.DEFAULT
                del tensor.external_data[:]
            inline[tensor.name] = tensor
        else:
            constants[tensor.name] = constant
    return constants, inline


def keep_only(graph: onnx.GraphProto, tensors: Iterable[onnx.TensorProto]) -> None:
    """Remove all other initialisers."""
    copies = [type(tensor).FromString(tensor.SerializeToString()) for tensor in tensors]
    del graph.initializer[:]
    graph.initializer.extend(copies)


def _names_at(
    nodes: Iterable[onnx.NodeProto], positions: Mapping[str, tuple[int, ...]]
) -> Iterator[str]:
    """Names that operators read at some positions, those in bodies too."""
    for node in nodes:
        taken = positions.get(node.op_type, ())
        yield from (node.input[i] for i in taken if i < len(node.input))
        for body in bodies(node):
            yield from _names_at(body.node, positions)


def _defined_names(graph: onnx.GraphProto) -> Iterator[str]:
    """Names of all values and constants, those in bodies too."""
    yield from (value.name for value in graph.input)
    yield from (tensor.name for tensor in graph.initializer)
    for node in graph.node:
        yield from node.output
        for body in bodies(node):
            yield from _defined_names(body)


def _fresh(name: str, taken: Counter[str]) -> str:
    """``name`` if nothing else is called so, else with a number."""
    if taken[name] <= 1:
        return name
    new = next(new for new in (f"{name}.{i}" for i in count()) if new not in taken)
    taken[new] = 1
    return new


def _rename(graph: onnx.GraphProto, names: Mapping[str, str]) -> None:
    """Let operators read other names, in bodies too, but for those that a body defines itself."""
    for node in graph.node:
        for position, name in enumerate(node.input):
            node.input[position] = names.get(name, name)
        for body in bodies(node):
            own = {value.name for value in body.input} | {t.name for t in body.initializer}
            own.update(name for inner in body.node for name in inner.output)
            _rename(body, {name: new for name, new in names.items() if name not in own})
