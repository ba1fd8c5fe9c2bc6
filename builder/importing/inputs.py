"""Inputs that a model takes."""

from __future__ import annotations

from dataclasses import dataclass

import onnx

from swapnet.errors import ModelError
from swapnet.symbols import is_placeholder
from swapnet.tensors import ONNX_TYPES

__all__ = ["InputType", "inputs_of"]


@dataclass(frozen=True)
class InputType:
    """An input of a model; a string is a symbolic dimension."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


def inputs_of(graph: onnx.GraphProto) -> tuple[InputType, ...]:
    """The inputs of a graph that are not initialisers.

    Raises
    ------
    ModelError
        An input is not a tensor of a known type and rank.
    """
    stored = {tensor.name for tensor in graph.initializer}
    stored.update(sparse.values.name for sparse in graph.sparse_initializer)
    return tuple(_input_type(value) for value in graph.input if value.name not in stored)


def _input_type(value: onnx.ValueInfoProto) -> InputType:
    tensor = value.type.tensor_type
    dtype = next((name for name, kind in ONNX_TYPES.items() if kind == tensor.elem_type), None)
    if dtype is None or not tensor.HasField("shape"):
        kind = value.type.WhichOneof("value") or "value"
        raise ModelError(
            f"input {value.name!r} can't be given",
            why=f"it is a {kind} of unknown rank"
            if dtype
            else f"it is a {kind} of TensorProto.DataType {tensor.elem_type}; "
            f"models take tensors of {', '.join(ONNX_TYPES)}",
            hint="export the model with tensors of such types and known ranks as inputs",
        )
    return InputType(
        value.name,
        dtype,
        tuple(
            dim.dim_value
            if dim.HasField("dim_value") and dim.dim_value >= 0
            else f"{value.name}.{axis}"
            if is_placeholder(dim.dim_param)
            else dim.dim_param
            for axis, dim in enumerate(tensor.shape.dim)
        ),
    )
