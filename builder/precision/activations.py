"""Q/DQ pairs around activations, by onnxruntime's quantiser, from ranges that were measured."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from onnx import shape_inference
from onnx.external_data_helper import load_external_data_for_tensor, uses_external_data

from swapnet.builder.precision.weights import LIMIT, NARROW_LIMIT
from swapnet.ranges import Range

__all__ = ["SATURATING", "SIGNED", "UNSIGNED", "Encoding", "quantise_activations"]

_PRODUCTS = ("Gemm", "MatMul")


@dataclass(frozen=True)
class Encoding:
    """Form of activations in 8 bits.

    Attributes
    ----------
    symmetric
        int8 with zero point 0, else uint8 with any zero point.
    float_outputs
        Kinds of operators whose outputs stay float32 unless their reader takes 8 bits.
    weight_limit
        Largest stored magnitude of the weights that they are multiplied by.
    """

    symmetric: bool
    float_outputs: tuple[str, ...]
    weight_limit: int = LIMIT


SIGNED: Final = Encoding(True, ("Conv", "ConvTranspose", *_PRODUCTS, "Add"))
"""For TensorRT: zero points are 0, and it fuses what follows a product into the product."""

UNSIGNED: Final = Encoding(False, _PRODUCTS)
"""For ONNX Runtime on the CPU: a Relu costs nothing where 0 is the smallest stored value."""

SATURATING: Final = Encoding(False, _PRODUCTS, NARROW_LIMIT)
"""The same where sums saturate: one bit of each weight for sums that are right."""


def quantise_activations(
    proto: onnx.ModelProto,
    folder: Path,
    operators: Sequence[onnx.NodeProto],
    ranges: Mapping[str, Range],
    encoding: Encoding,
) -> onnx.ModelProto:
    """Insert QuantizeLinear and DequantizeLinear around what ``operators`` read and write.

    Parameters
    ----------
    proto
        A model with widened weights in ``folder`` (`quantise_weights`); it is changed.
    operators
        Operators from `quantisable`; they are found by name.
    ranges
        Ranges of every value that is quantised.
    encoding
        Form of the activations.

    Returns
    -------
    onnx.ModelProto
        The same model, its weights still in ``folder``.
    """
    from onnxruntime.quantization import CalibrationMethod, QuantType
    from onnxruntime.quantization.calibrate import TensorsData
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
    from onnxruntime.quantization.quant_utils import add_infer_metadata

    widened = {node.output[0] for node in proto.graph.node if node.op_type == "DequantizeLinear"}
    proto = shape_inference.infer_shapes(proto)
    typed = [info for info in proto.graph.value_info if info.name not in widened]
    del proto.graph.value_info[:]
    proto.graph.value_info.extend(typed)
    add_infer_metadata(proto)
    chosen = {node.name for node in operators}
    _load_constants(proto, folder, chosen)
    bounds = {
        name: (np.float32(found.low), np.float32(found.high)) for name, found in ranges.items()
    }
    options: dict[str, Any] = {
        "ActivationSymmetric": encoding.symmetric,
        "WeightSymmetric": True,
        "QuantizeBias": False,
        "OpTypesToExcludeOutputQuantization": list(encoding.float_outputs),
    }
    with _quiet():
        quantizer = QDQQuantizer(
            proto,
            per_channel=True,
            reduce_range=False,
            weight_qType=QuantType.QInt8,
            activation_qType=QuantType.QInt8 if encoding.symmetric else QuantType.QUInt8,
            tensors_range=TensorsData(CalibrationMethod.MinMax, bounds),
            nodes_to_quantize=sorted(chosen),
            nodes_to_exclude=[],
            op_types_to_quantize=sorted({node.op_type for node in operators}),
            extra_options=options,
        )
        quantised: onnx.ModelProto = quantizer.quantize_model()
    del quantised.graph.value_info[:]
    del quantised.metadata_props[:]
    return quantised


def _load_constants(proto: onnx.ModelProto, folder: Path, chosen: Collection[str]) -> None:
    """Bring into memory what the quantiser reads: constants of the operators, no weights."""
    read = {name for node in proto.graph.node if node.name in chosen for name in node.input}
    for tensor in proto.graph.initializer:
        if tensor.name in read and uses_external_data(tensor):
            load_external_data_for_tensor(tensor, str(folder))
            tensor.data_location = tensor.DEFAULT
            del tensor.external_data[:]


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide the quantiser's warnings of weights that it does not find."""
    root = logging.getLogger()
    before = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(before)
