"""Biases as int32 in units of what they are added to, so that integer kernels take them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from swapnet.builder.precision.weights import prepend, widened

__all__ = ["is_plain", "quantise_biases"]

_BIASED = frozenset({"Conv", "Gemm"})

_INT32_LIMIT = 2.0**31 - 1


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
