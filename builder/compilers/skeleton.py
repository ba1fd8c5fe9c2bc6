"""Blocks as ONNX models without parameters: weights become graph inputs."""

from __future__ import annotations

from collections.abc import Collection

import onnx
from onnx import helper

from swapnet.builder.cutting.partition import Part
from swapnet.builder.importing.graph import Graph, Value
from swapnet.tensors import ONNX_TYPES

__all__ = ["skeleton"]


def skeleton(graph: Graph, part: Part, name: str, without: Collection[str] = ()) -> onnx.ModelProto:
    """An ONNX model of the part; its weights are inputs, after the values it reads.

    Weights in ``without`` are no inputs: the model is valid when they are added to it.
    """
    constants = [graph.constants[name] for name in part.weights if name not in without]
    weights = [Value(constant.name, constant.dtype, constant.shape) for constant in constants]
    inputs = [graph.values[n] for n in part.inputs]
    body = helper.make_graph(
        list(part.nodes),
        name,
        [_value_info(value) for value in (*inputs, *weights)],
        [_value_info(graph.values[n]) for n in part.outputs],
        initializer=[graph.inline[n] for n in part.inline],
    )
    return helper.make_model(
        body,
        opset_imports=graph.opset_imports,
        ir_version=graph.ir_version,
        producer_name="swapnet",
    )


def _value_info(value: Value) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(value.name, ONNX_TYPES[value.dtype], list(value.shape))
