"""Models that compute in float16, with what 16 bits can't hold left in float32."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Final

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper, shape_inference
from onnx.external_data_helper import load_external_data_for_model

from swapnet.ranges import Range

__all__ = ["to_float16"]

FLOAT16_LIMIT: Final = 65504.0
"""Largest finite float16."""

_MARGIN: Final = 2.0
"""Factor by which values may become larger than in the calibration data."""

SENSITIVE: Final = frozenset(
    {
        *("Exp", "Log", "Pow", "CumSum", "LayerNormalization", "InstanceNormalization"),
        *("ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceProd", "ReduceSum"),
        *("ReduceSumSquare", "Softplus"),
    }
)
"""Kinds that overflow or cancel in float16 on ordinary inputs: sums of many terms, exponentials."""


def to_float16(
    proto: onnx.ModelProto,
    folder: Path,
    *,
    ranges: Mapping[str, Range] | None = None,
    exclude: Collection[str] = (),
) -> onnx.ModelProto:
    """Convert a normalised model, by onnxruntime's converter; weights are read into memory.

    Parameters
    ----------
    ranges
        Ranges of its values, where measured: operators that come within a factor of two of
        `FLOAT16_LIMIT` stay in float32.
    exclude
        Names of operators that stay in float32.
    """
    from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16

    whole = shape_inference.infer_shapes(proto)
    load_external_data_for_model(whole, str(folder))
    large = {
        tensor.name
        for tensor in whole.graph.initializer
        if tensor.data_type == 1 and _exceeds(numpy_helper.to_array(tensor))
    }
    measured = ranges or {}
    wide = {
        name
        for name, found in measured.items()
        if max(-found.low, found.high) * _MARGIN > FLOAT16_LIMIT
    }
    overflowing = tuple(
        node.name
        for node in whole.graph.node
        if node.name not in exclude and not (large | wide).isdisjoint((*node.input, *node.output))
    )
    converted: onnx.ModelProto = convert_float_to_float16(
        whole,
        keep_io_types=True,
        disable_shape_infer=True,
        op_block_list=sorted({*DEFAULT_OP_BLOCK_LIST, *SENSITIVE}),
        node_block_list=sorted({*exclude, *overflowing}),
    )
    _join_casts(converted.graph)
    return converted


def _join_casts(graph: onnx.GraphProto) -> None:
    """Pass float32 values between float32 operators as they are, not through float16."""
    casts = {
        node.output[0]: (node.input[0], node.attribute[0].i)
        for node in graph.node
        if node.op_type == "Cast"
    }
    for node in graph.node:
        given, kind = casts.get(node.output[0], ("", 0))
        before, narrowed = casts.get(given, ("", 0))
        if (kind, narrowed) == (TensorProto.FLOAT, TensorProto.FLOAT16):
            node.op_type = "Identity"
            node.input[0] = before
            del node.attribute[:]
    outputs = {value.name for value in graph.output}
    read = outputs.union(*(node.input for node in graph.node))
    kept = [node for node in graph.node if node.op_type != "Cast" or node.output[0] in read]
    del graph.node[:]
    graph.node.extend(kept)


def _exceeds(weight: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> bool:
    """Whether float16 has no finite value for an element."""
    return bool(weight.size and not np.abs(weight).max() <= FLOAT16_LIMIT)
