"""Operators that the CPU computes faster in float32 from narrow weights than in int8."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from swapnet.builder.importing.graph import copied
from swapnet.builder.precision.selection import weighted

if TYPE_CHECKING:
    import onnx

__all__ = ["slower_in_int8"]


def slower_in_int8(
    proto: onnx.ModelProto,
    exclude: Collection[str],
    *,
    shapes: Mapping[str, tuple[int, ...]],
) -> frozenset[str]:
    """Names of the operators for which weight-only storage wins, measured on this processor.

    ``shapes`` are those of inputs to measure at.
    Operators in ``exclude`` are left out.
    """
    from swapnet.builder.precision.int8_or_float import measure_forms

    chosen = weighted(proto.graph, exclude=exclude)
    forms = measure_forms(
        [one.node for one in chosen],
        _planned(proto, shapes),
        {t.name: tuple(t.dims) for t in proto.graph.initializer},
    )
    return frozenset(
        one.node.name
        for one in chosen
        if one.node.output[0] in forms and forms[one.node.output[0]].choice == "weight-only"
    )


def _planned(
    proto: onnx.ModelProto, shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, tuple[int, ...]]:
    """Shapes of values; what can't be inferred is left out."""
    from onnx import shape_inference

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
