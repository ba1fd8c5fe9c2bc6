"""Operators that compute a row of their output from a few rows of their input, or one of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

from swapnet.builder.importing.graph import Graph, used_names

if TYPE_CHECKING:
    import onnx

__all__ = [
    "LEAST_PRODUCT_ROWS",
    "Reach",
    "is_product",
    "keeps_tokens",
    "reach_of",
    "read_by_rows",
    "row_axis",
]

_ROWS = 2
"""The axis of rows in (N, C, H, …)."""

LEAST_PRODUCT_ROWS = 16
"""Rows of a product in a unit: one row alone is summed in another order, also in a thread."""

_DOMAINS = ("", "ai.onnx", "com.microsoft", "com.microsoft.nchwc")
"""Others have operators of the same names, with rows elsewhere."""
_ELEMENTWISE = frozenset(
    (
        *("Abs", "Add", "BatchNormalization", "BiasGelu", "Cast", "Ceil", "Clip"),
        *("DequantizeLinear", "Div", "Erf", "Exp", "Floor", "Gelu", "HardSigmoid", "HardSwish"),
        *("Identity", "LeakyRelu"),
        *("Max", "Mean", "Min", "Mul", "Neg", "PRelu", "Pow", "QuantizeLinear", "QuickGelu"),
        *("Reciprocal", "Relu", "ReorderInput", "ReorderOutput", "Round", "Sigmoid", "Sign"),
        *("Softsign", "Sqrt", "Sub", "Sum", "Tanh", "ThresholdedRelu", "Where"),
    )
)
"""Cos, Elu, Log, Mish, Selu, Sin and Softplus round otherwise in the rest of a vector."""
_CONVOLUTIONS = frozenset({"Conv", "FusedConv"})
_PRODUCTS = frozenset({"FusedMatMul", "Gemm", "MatMul"})
_NORMALISING = frozenset({"LayerNormalization", "SimplifiedLayerNormalization", "Softmax"})
_POOLS = frozenset({"AveragePool", "MaxPool"})
_EXACT_SCALES = (1, 2, 4, 8)
"""Positions between pixels are exact for these: they round alike in every strip."""


@dataclass(frozen=True)
class Reach:
    """Rows of an input that a row of the output is computed from.

    Row ``j`` of the output reads at most the rows ``(j * down + low) // up`` to
    ``(j * down + high) // up``. The output has ``up / down`` times the rows of the input, but for
    the borders.
    """

    up: int = 1
    down: int = 1
    low: int = 0
    high: int = 0

    def above(self, wrong: int) -> int:
        """Wrong rows at the top of the output, next to a cut, from those of the input."""
        return max(0, -((self.low - wrong * self.up) // self.down))

    def below(self, wrong: int) -> int:
        """Wrong rows at the bottom of the output, next to a cut, from those of the input."""
        return max(0, (wrong * self.up + self.high) // self.down)


def reach_of(graph: Graph, node: onnx.NodeProto) -> Reach | None:
    """The reach of an operator into each value that it reads; None where rows depend on others."""
    kind = node.op_type
    attributes = _attributes(node)
    if node.domain not in _DOMAINS or node.output[0] not in graph.values:
        return None
    rank = len(graph.shapes(node.output[0])[1])
    axis = row_axis(graph, rank)
    if kind in _ELEMENTWISE:
        is_local = not attributes.get("training_mode") and not attributes.get("channels_last")
        return Reach() if is_local and len(node.output) == 1 else None
    if is_product(node):
        turned = any(attributes.get(name) for name in ("transA", "transBatchA", "transBatchB"))
        ranks = {len(graph.shapes(name)[1]) for name in (node.input[0], node.output[0])}
        bias = graph.shapes(node.input[2])[1] if len(node.input) > 2 else ()
        is_local = not turned and ranks == {axis + 2} and (len(bias) < 2 or bias[0] == 1)
        return Reach() if is_local else None
    if kind == "Reshape":
        return Reach() if keeps_tokens(graph, node) and _is_open(graph, node, axis) else None
    if kind in _NORMALISING:
        is_last = attributes.get("axis") in (-1, rank - 1) and axis < rank - 1
        return Reach() if is_last and len(node.output) == 1 else None
    if kind in ("Concat", "Split"):
        return Reach() if rank and attributes.get("axis", 0) % rank != axis else None
    if axis != _ROWS:  # a window goes over features then
        return None
    if kind in _CONVOLUTIONS:
        return _window(attributes, _kernel(graph, node, attributes))
    if kind in _POOLS and len(list(filter(None, node.output))) == 1:
        return _window(attributes, attributes["kernel_shape"])
    if kind == "ConvTranspose":
        return _transposed(graph, node, attributes)
    if kind in ("Resize", "Upsample"):
        return _resized(graph, node, attributes)
    if kind in ("DepthToSpace", "SpaceToDepth"):
        size = attributes["blocksize"]
        return Reach(up=size) if kind == "DepthToSpace" else Reach(down=size, high=size - 1)
    return None


def row_axis(graph: Graph, rank: int) -> int:
    """The axis of rows in tensors of so many axes: tokens lie before features, also without N."""
    return min(_ROWS, max(rank - 2, 0)) if graph.has_tokens else _ROWS


def keeps_tokens(graph: Graph, node: onnx.NodeProto) -> bool:
    """Whether it gives (1, tokens, features) as (tokens, features), or back."""
    if node.op_type != "Reshape" or node.output[0] not in graph.values or not graph.has_tokens:
        return False
    one, other = (graph.shapes(name)[1] for name in (node.input[0], node.output[0]))
    return {len(one), len(other)} == {2, 3} and (1, *one)[-3:] == (1, *other)[-3:]


def _is_open(graph: Graph, node: onnx.NodeProto, axis: int) -> bool:
    """Whether a Reshape gives any number of rows."""
    from onnx import numpy_helper

    target = graph.inline.get(node.input[1])
    return target is not None and numpy_helper.to_array(target)[axis] == -1


def is_product(node: onnx.NodeProto) -> bool:
    """Whether it is a product of matrices, whose second is read whole for each row."""
    return node.op_type in _PRODUCTS


def read_by_rows(graph: Graph, node: onnx.NodeProto) -> list[str]:
    """Values of which a row of an operator's output needs a few rows."""
    names = node.input[:1] if is_product(node) else used_names(node)
    return [name for name in dict.fromkeys(names) if name in graph.values]


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    from onnx import helper

    return {a.name: helper.get_attribute_value(a) for a in node.attribute}


def _kernel(
    graph: Graph, node: onnx.NodeProto, attributes: Mapping[str, Any]
) -> Sequence[int] | None:
    if "kernel_shape" in attributes:
        kernel: Sequence[int] = attributes["kernel_shape"]
        return kernel
    known = node.input[1] in graph.constants or node.input[1] in graph.inline
    return graph.shapes(node.input[1])[1][2:] if known else None


def _window(attributes: Mapping[str, Any], kernel: Sequence[int] | None) -> Reach | None:
    """A window that moves by ``stride`` rows."""
    if not kernel:
        return None
    reach = attributes.get("dilations", [1])[0] * (kernel[0] - 1)
    stride = attributes.get("strides", [1])[0]
    padding = _padding(attributes, reach)
    return padding and Reach(1, stride, -padding[1], reach - padding[0])


def _transposed(graph: Graph, node: onnx.NodeProto, attributes: Mapping[str, Any]) -> Reach | None:
    """A window that each row of the input adds to, moved by ``stride`` rows."""
    kernel = _kernel(graph, node, attributes)
    if not kernel or "output_shape" in attributes:
        return None
    reach = attributes.get("dilations", [1])[0] * (kernel[0] - 1)
    stride = attributes.get("strides", [1])[0]
    padding = _padding(attributes, reach)
    return padding and Reach(stride, 1, padding[0] - reach + stride - 1, padding[1])


def _padding(attributes: Mapping[str, Any], reach: int) -> tuple[int, int] | None:
    """Least and most rows of padding at the top, as far as they are known.

    ``SAME_UPPER`` and ``SAME_LOWER`` pad by the rest of a division by the stride, which is the same
    for the whole and for its strips.
    """
    kind = attributes.get("auto_pad", b"NOTSET").decode()
    if kind.startswith("SAME"):
        return 0, reach
    pads = attributes.get("pads") or [0] if kind == "NOTSET" else [0]
    return pads[0], pads[0]


def _resized(graph: Graph, node: onnx.NodeProto, attributes: Mapping[str, Any]) -> Reach | None:
    """Each row between two rows of the input, at an exact distance."""
    mode = attributes.get("mode", b"nearest").decode()
    default = "half_pixel" if node.op_type == "Resize" else "asymmetric"
    position = attributes.get("coordinate_transformation_mode", default.encode()).decode()
    scales = attributes.get("scales") or _scales(graph, node)
    if (
        scales is None
        or len(scales) < 3
        or any(name in attributes for name in ("axes", "antialias", "keep_aspect_ratio_policy"))
        or mode not in ("nearest", "linear")
        or position not in ("asymmetric", "half_pixel", "pytorch_half_pixel")
        or scales[_ROWS] not in _EXACT_SCALES
    ):
        return None
    scale = int(scales[_ROWS])
    rounding = "round_prefer_floor" if node.op_type == "Resize" else "floor"
    rounding = attributes.get("nearest_mode", rounding.encode()).decode()
    is_repeated = (mode, position, rounding) == ("nearest", "asymmetric", "floor")
    beside = 0 if is_repeated else scale
    return Reach(up=scale, low=-beside, high=beside)


def _scales(graph: Graph, node: onnx.NodeProto) -> list[float] | None:
    """Constant scales of a Resize or an Upsample."""
    from onnx import numpy_helper

    position = 2 if node.op_type == "Resize" else 1
    name = node.input[position] if len(node.input) > position else ""
    if name not in graph.inline or prod(graph.inline[name].dims) < 3:
        return None
    return [float(scale) for scale in numpy_helper.to_array(graph.inline[name])]
