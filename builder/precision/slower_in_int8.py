"""Operators that the CPU computes faster in float32 from narrow weights than in int8."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from swapnet.builder.importing.inferred import inferred_shapes
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
        inferred_shapes(proto, shapes),
        {t.name: tuple(t.dims) for t in proto.graph.initializer},
    )
    return frozenset(
        one.node.name
        for one in chosen
        if one.node.output[0] in forms and forms[one.node.output[0]].choice == "weight-only"
    )
