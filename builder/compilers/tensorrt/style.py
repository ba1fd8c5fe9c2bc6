"""Weight style of a block: weights are inputs of its engine, or inside it.

External weights are read from storage straight to where kernels use them; embedded ones travel in
the plan, which is deserialized each time, but lie as the kernels like them best.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

import onnx

from swapnet.builder.compilers.base import Piece, WeightStyle
from swapnet.builder.importing.graph import bodies
from swapnet.errors import SwapnetError
from swapnet.executor.probing.swaps import measure_swaps

__all__ = ["EXTERNAL_INPUTS", "choose_styles", "measure_styles", "refused_operator"]

_STYLES: tuple[WeightStyle, ...] = ("external", "embedded")

_ALL = tuple(range(16))

EXTERNAL_INPUTS: Mapping[str, Collection[int]] = {
    **dict.fromkeys(("Conv", "ConvTranspose"), (0, 1, 2)),
    **dict.fromkeys(("Gemm", "MatMul", "Einsum"), _ALL),
    **dict.fromkeys(
        (
            *("Add", "Sub", "Mul", "Div", "Pow", "Max", "Min", "Mod", "Sum", "Mean", "PRelu"),
            *("Greater", "Less", "Equal", "GreaterOrEqual", "LessOrEqual", "And", "Or", "Xor"),
            *("Where", "Clip"),
        ),
        _ALL,
    ),
    **dict.fromkeys(
        ("Gather", "GatherND", "GatherElements", "ScatterND", "ScatterElements"), (0, 1, 2)
    ),
    **dict.fromkeys(
        ("LayerNormalization", "GroupNormalization", "InstanceNormalization", "RMSNormalization"),
        (0, 1, 2),
    ),
    "BatchNormalization": (0, 1, 2, 3, 4),
    **dict.fromkeys(("LSTM", "GRU", "RNN"), (0, 1, 2, 3, 5, 6, 7)),
    "DequantizeLinear": (0,),
    "QuantizeLinear": (0,),
    "Concat": _ALL,
    "GridSample": (0, 1),
    "RotaryEmbedding": (0, 1, 2),
    **dict.fromkeys(
        (
            *("Transpose", "Reshape", "Cast", "Identity", "Slice", "Split", "Expand", "Tile"),
            *("Pad", "Unsqueeze", "Squeeze", "Flatten", "ReduceSum", "ReduceMean", "ReduceMax"),
            *("Softmax", "Relu", "Neg", "Abs", "Exp", "Log", "Sqrt", "Tanh", "Sigmoid", "Erf"),
        ),
        (0,),
    ),
}
"""Positions at which TensorRT-RTX takes a network input instead of a constant, by operator.

Each is built with the real library in ``tests/builder/compilers/tensorrt/test_style.py``. Zero
points of QuantizeLinear and DequantizeLinear are refused, and their scales stay beside them.
"""


_MICROSOFT_INPUTS: Mapping[str, Collection[int]] = {
    **{"GroupQueryAttention": (7, 8), "MatMulNBits": (0, 1, 2, 3, 5), "RotaryEmbedding": (0, 2, 3)},
    **{"SimplifiedLayerNormalization": (0, 1), "SkipSimplifiedLayerNormalization": (0, 1, 2)},
}
"""The same for operators of ONNX Runtime, where TensorRT has them or others in their place."""


def choose_styles(
    pieces: Sequence[Piece],
    choice: str = "auto",
    measured_ms: Mapping[int, Mapping[WeightStyle, float]] | None = None,
) -> tuple[WeightStyle, ...]:
    """The style of each piece, by rule on its operators.

    A piece without weights of its own is external, and so is one with weights that others read from
    storage (`Piece.readable`).

    Parameters
    ----------
    choice
        ``"external"`` and ``"embedded"`` hold for all pieces that have weights of their own; with
        ``"auto"``, weights are external where all operators take them so (`EXTERNAL_INPUTS`).
    measured_ms
        Time of a swap and an execution in each style, by block, where they were measured on a GPU:
        with ``"auto"``, the faster one.
    """
    return tuple(_style(piece, choice, (measured_ms or {}).get(piece.index)) for piece in pieces)


def _style(
    piece: Piece, choice: str, measured_ms: Mapping[WeightStyle, float] | None
) -> WeightStyle:
    if not piece.own or piece.readable or choice == "external":
        return "external"
    if choice == "embedded" or refused_operator(piece) is not None:
        return "embedded"
    if measured_ms is not None:
        return min(measured_ms, key=lambda style: measured_ms[style])
    return "external"


def refused_operator(piece: Piece) -> onnx.NodeProto | None:
    """The first operator that does not take one of the piece's weights as an input; or None."""
    return _refused(piece.part.nodes, set(piece.part.weights), set(piece.part.inline))


def _refused(
    nodes: Sequence[onnx.NodeProto], weights: set[str], constant: set[str]
) -> onnx.NodeProto | None:
    """The same for some operators; what is computed from weights alone is no constant either."""
    for node in nodes:
        is_own = node.domain in ("", "ai.onnx") and node.op_type in EXTERNAL_INPUTS
        table = EXTERNAL_INPUTS if is_own else _MICROSOFT_INPUTS
        taken = table.get(node.op_type, ())
        read = {position for position, name in enumerate(node.input) if name in weights}
        if not read.issubset(taken):
            return node
        for body in bodies(node):
            inner = _refused(body.node, set(weights), set(constant))
            if inner is not None:
                return inner
        if read and all(name in weights or name in constant or not name for name in node.input):
            weights.update(node.output)
    return None


def measure_styles(
    build: Callable[[WeightStyle, Path], None],
    work: Path,
    swaps: Callable[[Path], tuple[float, ...]] = measure_swaps,
) -> dict[int, dict[WeightStyle, float]]:
    """Build an engine in each style, run both, and compare block by block.

    Parameters
    ----------
    build
        Builds an engine of one style into a folder; blocks are the same in both.
    swaps
        Milliseconds of each block of an engine.

    Returns
    -------
    dict
        Milliseconds in each style, by block. Empty where one of the styles can't be built or run:
        the rule decides then.
    """
    measured: dict[int, dict[WeightStyle, float]] = {}
    for style in _STYLES:
        folder = work / style
        try:
            build(style, folder)
            times = swaps(folder)
        except SwapnetError:
            return {}
        for block, ms in enumerate(times):
            measured.setdefault(block, {})[style] = ms
    return measured
