"""Biases of products in int8: they make up for rounding weights, and are stored as int32."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from swapnet.builder.importing.graph import read_constant
from swapnet.builder.precision.selection import Weighted, channel_axis, channels_of
from swapnet.builder.precision.weights import pieces, prepend, widened

__all__ = ["correct_biases", "is_plain", "mean_errors", "quantise_biases"]

Floats = npt.NDArray[np.float64]


_BIASED = frozenset({"Conv", "Gemm"})
_INT32_LIMIT = 2.0**31 - 1


def correct_biases(
    proto: onnx.ModelProto,
    before: onnx.ModelProto,
    folder: Path,
    operators: Sequence[Weighted],
    means: Mapping[str, Sequence[float]],
) -> None:
    """Add ``(W - Wq) E[x]`` to biases, in place: Nagel et al., ICCV 2019, arXiv 1906.04721, 4.2.

    Means are of calibration data, not of batch normalisation as there. A convolution or Gemm
    without a bias gets one; the bias of a MatMul is the constant that the only reader of its output
    adds. What has none, or one that is computed, stays as it is.

    Parameters
    ----------
    proto, before
        A normalised model after `quantise_weights`, which is changed, and before.
    folder
        Folder with the weights of both.
    operators
        Operators with quantised weights.
    means
        Mean of each channel that they read, by name of the value; some may be missing.
    """
    floats = {tensor.name: tensor for tensor in before.graph.initializer}
    stored = {tensor.name: tensor for tensor in proto.graph.initializer}
    nodes = {node.name: node for node in proto.graph.node}
    for one in operators:
        node = nodes[one.node.name]
        dims = tuple(floats[one.weight].dims)
        if node.input[0] not in means or channels_of(node, dims) is None or not is_plain(node):
            continue
        whole, rounded, scale = (
            _read(tensor, folder)
            for tensor in (
                floats[one.weight],
                stored[f"{one.weight}_quantized"],
                stored[f"{one.weight}_scale"],
            )
        )
        others = tuple(i for i in range(whole.ndim) if i != one.axis)
        step = np.expand_dims(scale, tuple(range(whole.ndim)) if one.axis is None else others)
        errors = mean_errors(node, whole, rounded, step, np.asarray(means[node.input[0]]))
        _add_to_bias(proto.graph, node, errors, folder)


def mean_errors(
    node: onnx.NodeProto,
    whole: npt.NDArray[np.float32],
    rounded: npt.NDArray[np.int8],
    step: npt.NDArray[np.float32],
    means: Floats,
) -> Floats:
    """Amount by which the mean of each output channel is too low.

    Parameters
    ----------
    node
        Conv, Gemm or MatMul.
    whole, rounded
        Its weight before and after.
    step
        Step of the rounded weight, with as many dimensions.
    means
        Means of the input's channels.
    """
    axis = channel_axis(node, whole.ndim)
    steps = np.broadcast_to(step.astype(np.float64), (len(whole), *step.shape[1:]))
    parts: list[Floats] = []
    start = 0
    for piece in pieces(whole):
        rows = slice(start, start + len(piece))
        error = piece - rounded[rows] * steps[rows]
        if node.op_type == "Conv":
            inside = error.reshape(*error.shape[:2], -1).sum(axis=2)
            grouped = means.reshape(-1, inside.shape[1])
            group = np.arange(rows.start, rows.stop) * len(grouped) // len(whole)
            parts.append((inside * grouped[group]).sum(axis=1))
        else:
            parts.append(error @ means if axis == 0 else means[rows] @ error)
        start = rows.stop
    return np.concatenate(parts) if axis == 0 else np.sum(parts, axis=0)


def _read(tensor: onnx.TensorProto, folder: Path) -> npt.NDArray[Any]:
    """A constant; external data stays behind a memory map."""
    constant = read_constant(tensor, folder)
    assert constant is not None
    return constant.data.view(constant.dtype).reshape(constant.shape)


def _add_to_bias(
    graph: onnx.GraphProto, node: onnx.NodeProto, errors: Floats, folder: Path
) -> None:
    readers = Counter(name for reader in graph.node for name in reader.input)
    if node.op_type == "MatMul":
        following = [reader for reader in graph.node if node.output[0] in reader.input]
        given = {output.name for output in graph.output}
        if len(following) != 1 or following[0].op_type != "Add" or node.output[0] in given:
            return
        adding = following[0]
        place = 1 - list(adding.input).index(node.output[0])
    else:
        adding, place = node, 2
    bias = adding.input[place] if place < len(adding.input) else ""
    tensor = next((t for t in graph.initializer if t.name == bias), None)
    if tensor is None and (bias or node.op_type == "MatMul"):
        return
    before = (
        np.zeros(errors.shape) if tensor is None else numpy_helper.to_array(tensor, str(folder))
    )
    if before.size != errors.size or before.shape[-1:] != errors.shape:
        return
    corrected = (before + errors).astype(np.float32)
    if tensor is not None and readers[bias] == 1:
        tensor.CopyFrom(numpy_helper.from_array(corrected, bias))
        return
    name = f"{node.name}_corrected_bias"
    graph.initializer.append(numpy_helper.from_array(corrected, name))
    if place < len(adding.input):
        adding.input[place] = name
    else:
        adding.input.append(name)


def quantise_biases(proto: onnx.ModelProto, folder: Path) -> None:
    """Store the biases of products of dequantised inputs as int32, in place.

    The scale is the input's times the weight's. A bias that something else reads too, or that does
    not fit in 32 bits, stays float32.
    """
    tensors = {tensor.name: tensor for tensor in proto.graph.initializer}
    dequantised = {
        node.output[0]: node for node in proto.graph.node if node.op_type == "DequantizeLinear"
    }
    readers = Counter(name for node in proto.graph.node for name in node.input)
    widening = []
    for node in proto.graph.node:
        bias = node.input[2] if node.op_type in _BIASED and len(node.input) > 2 else ""
        scaled = [dequantised[n].input[1] for n in node.input[:2] if n in dequantised]
        if readers[bias] != 1 or bias not in tensors or len(scaled) != 2 or not is_plain(node):
            continue
        given, weight = (numpy_helper.to_array(tensors[name]) for name in scaled)
        scale = np.asarray(given * weight, np.float32)
        values = numpy_helper.to_array(tensors[bias], str(folder)).astype(np.float64)
        stored = np.rint(values / scale)
        if values.ndim != 1 or not (np.abs(stored) <= _INT32_LIMIT).all():
            continue
        integers = numpy_helper.from_array(stored.astype(np.int32), f"{bias}_quantized")
        proto.graph.initializer.append(integers)
        widening.append(widened(proto.graph, bias, scale, np.dtype(np.int32), axis=0))
        proto.graph.initializer.remove(tensors[bias])
    prepend(proto.graph, widening)


def is_plain(node: onnx.NodeProto) -> bool:
    """Whether a product adds its bias unscaled."""
    factors = (a.f for a in node.attribute if a.name in ("alpha", "beta"))
    return all(factor == 1.0 for factor in factors)
