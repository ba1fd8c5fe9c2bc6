"""Weights in int8, one scale per output channel, read and written in pieces."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from math import prod
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from swapnet.builder.importing.graph import read_constant
from swapnet.builder.precision.selection import Weighted
from swapnet.errors import ModelError
from swapnet.tensors import external_tensor

__all__ = ["LIMIT", "NARROW_LIMIT", "pieces", "prepend", "quantise_weights", "widened"]

LIMIT = 127
"""Largest stored magnitude: symmetric, so that zero is stored as zero and -128 is not used."""

NARROW_LIMIT = 63
"""The same where sums saturate (`swapnet.fingerprint.int8_saturates`): 255 * 63 * 2 has room."""

_PIECE_ELEMENTS = 4 << 20


def quantise_weights(
    proto: onnx.ModelProto,
    folder: Path,
    operators: Sequence[Weighted],
    file: str,
    *,
    limit: int = LIMIT,
) -> None:
    """Store weights as int8 and widen them by DequantizeLinear, in place.

    Each element is rounded to a neighbour such that the errors of an output channel cancel: SQuant
    (Guo et al., ICLR 2022, arXiv 2202.07471, section 3.3), by channel. Its inputs are alike where
    they follow a Relu, and then it is the sum of the errors that is seen in the output.

    The scale of a channel is its largest magnitude over ``limit``; zero points are 0, as TensorRT
    requires. Values keep their names: operators read what DequantizeLinear gives.

    Parameters
    ----------
    proto
        A normalised model with weights in ``folder``; changed.
    operators
        Operators that read the weights.
    file
        Name of a file in ``folder`` for the int8 weights.
    limit
        Largest stored magnitude.

    Raises
    ------
    ModelError
        A weight is not finite.
    """
    tensors = {tensor.name: tensor for tensor in proto.graph.initializer}
    axes = {one.weight: one.axis for one in operators}
    widening = []
    with ExitStack() as stack:
        out = stack.enter_context((folder / file).open("wb"))
        for name, axis in axes.items():
            constant = read_constant(tensors[name], folder)
            assert constant is not None
            whole = constant.data.view(np.float32).reshape(constant.shape)
            largest = _largest(whole, axis, name)
            scale = np.where(largest > 0, largest / np.float32(limit), np.float32(1))
            scale = scale.astype(np.float32)
            offset = out.tell()
            _write(out, whole, scale, axis, limit)
            place = (file, offset, prod(constant.shape))
            stored = external_tensor(f"{name}_quantized", "int8", constant.shape, *place)
            tensors[name].CopyFrom(stored)
            widening.append(widened(proto.graph, name, scale, np.dtype(np.int8), axis))
    prepend(proto.graph, widening)


def widened(
    graph: onnx.GraphProto,
    name: str,
    scale: npt.NDArray[np.float32],
    stored: np.dtype[np.signedinteger],
    axis: int | None,
) -> onnx.NodeProto:
    """An operator that gives ``name`` from the integers ``name_quantized``.

    ``graph`` gets the zero points, which are 0, and the scale: a scalar, or one element for each
    index along ``axis``. ``stored`` is the type of the integers.
    """
    given = [f"{name}_quantized", f"{name}_scale", f"{name}_zero_point"]
    zeros = np.zeros(scale.shape, stored)
    for constant, array in zip(given[1:], (scale, zeros), strict=True):
        graph.initializer.append(numpy_helper.from_array(array, constant))
    title = f"{name}_DequantizeLinear"
    return helper.make_node("DequantizeLinear", given, [name], name=title, axis=axis)


def prepend(graph: onnx.GraphProto, nodes: Sequence[onnx.NodeProto]) -> None:
    """Put operators before all others."""
    whole = [*nodes, *graph.node]
    del graph.node[:]
    graph.node.extend(whole)


def pieces(whole: npt.NDArray[np.float32]) -> Iterator[npt.NDArray[np.float32]]:
    """Pieces of consecutive rows, each of about `_PIECE_ELEMENTS`."""
    rows = max(_PIECE_ELEMENTS // max(prod(whole.shape[1:]), 1), 1)
    yield from (whole[start : start + rows] for start in range(0, whole.shape[0], rows))


def _largest(
    whole: npt.NDArray[np.float32], axis: int | None, name: str
) -> npt.NDArray[np.float32]:
    """Largest magnitude by channel: shape ``(channels,)``, or a scalar."""
    if axis == 0:
        others = tuple(range(1, whole.ndim))
        found = np.concatenate([np.abs(piece).max(axis=others) for piece in pieces(whole)])
    else:
        others = tuple(i for i in range(whole.ndim) if i != axis)
        maxima = [np.abs(piece).max(axis=others) for piece in pieces(whole)]
        found = np.max(maxima, axis=0)
    if not np.isfinite(found).all():
        raise ModelError(
            f"weight {name!r} can't be quantised",
            why=f"{int((~np.isfinite(found)).sum())} of its {found.size} channels hold NaN or "
            "infinity",
            hint="repair the model, or exclude the operator: --exclude",
        )
    return np.asarray(found, np.float32)


def _write(
    out: IO[bytes],
    whole: npt.NDArray[np.float32],
    scale: npt.NDArray[np.float32],
    axis: int | None,
    limit: int,
) -> None:
    """Append the stored integers, C-contiguous."""
    dims = [1] * whole.ndim
    if axis is not None:
        dims[axis] = -1
    start = 0
    for piece in pieces(whole):
        stop = start + piece.shape[0]
        steps = piece / (scale[start:stop] if axis == 0 else scale).reshape(dims)
        rows = np.moveaxis(steps, axis or 0, 0).reshape(steps.shape[axis or 0], -1)
        rounded = _round(rows, limit)
        back = rounded.reshape(np.moveaxis(steps, axis or 0, 0).shape)
        stored = np.moveaxis(back, 0, axis or 0).astype(np.int8)
        out.write(np.ascontiguousarray(stored).tobytes())
        start = stop


def _round(steps: npt.NDArray[np.float32], limit: int) -> npt.NDArray[np.float32]:
    """Integers beside ``steps``, of shape ``(channels, elements)``, with errors that cancel.

    A row's sum changes by less than half a step: the elements that lie nearest to the middle are
    rounded the other way.
    """
    rounded = np.rint(steps)
    errors = steps - rounded
    excess = np.rint(errors.sum(axis=1)).astype(int)
    for row in np.flatnonzero(excess):
        count = abs(int(excess[row]))
        sign = np.sign(excess[row])
        towards = sign * errors[row]
        towards[sign * rounded[row] >= limit] = -1
        rounded[row, np.argpartition(towards, -count)[-count:]] += sign
    return np.clip(rounded, -limit, limit)
