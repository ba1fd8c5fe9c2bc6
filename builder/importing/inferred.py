"""Shapes of values as ONNX infers them."""

from __future__ import annotations

from collections.abc import Mapping

import onnx
from onnx import shape_inference

from swapnet.builder.importing.graph import copied

__all__ = ["inferred_shapes"]


def inferred_shapes(
    proto: onnx.ModelProto, shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, tuple[int, ...]]:
    """Shapes of values by name, without running anything; what can't be inferred is left out.

    Parameters
    ----------
    proto
        Its symbolic dimensions that ``shapes`` leaves open are 1.
    shapes
        Shapes of inputs.
    """
    given = copied(proto)
    initialised = {tensor.name for tensor in proto.graph.initializer}
    for value in given.graph.input:
        if value.name in initialised:
            continue
        dims = value.type.tensor_type.shape.dim
        known = shapes.get(value.name)
        for axis, dim in enumerate(dims):
            fits = known is not None and len(known) == len(dims)
            dim.dim_value = known[axis] if known and fits else dim.dim_value or 1
    for value in given.graph.output:
        value.type.tensor_type.ClearField("shape")
    inferred = shape_inference.infer_shapes(given, data_prop=True)
    return {
        value.name: tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
        for value in (*inferred.graph.input, *inferred.graph.value_info, *inferred.graph.output)
        if all(dim.dim_value > 0 for dim in value.type.tensor_type.shape.dim)
    }
