"""The tensors that a caller gives, checked against what the model takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from swapnet.errors import BudgetError, InputError
from swapnet.executor.backends.base import Array
from swapnet.manifest import Manifest, Tensor
from swapnet.sampling import sample_inputs
from swapnet.shapes import as_option
from swapnet.tensors import numpy_dtype

__all__ = ["check_inputs", "index_limits", "planned_sample"]


def check_inputs(manifest: Manifest, inputs: Mapping[str, Any]) -> dict[str, Array]:
    """C-contiguous arrays for all model inputs.

    Raises
    ------
    InputError
        A name, element type or shape is not what the model takes.
    BudgetError
        A shape is larger than planned for.
    """
    expected = {tensor.name: tensor for tensor in manifest.inputs}
    unknown = sorted(inputs.keys() - expected.keys())
    missing = sorted(expected.keys() - inputs.keys())
    if unknown or missing:
        raise InputError(
            f"unknown input {unknown[0]!r}" if unknown else f"input {missing[0]!r} is missing",
            why=f"the model takes {', '.join(map(repr, expected))}",
            hint="give each of them once",
        )
    return {name: _check(manifest, expected[name], inputs[name]) for name in expected}


def _check(manifest: Manifest, tensor: Tensor, value: Any) -> Array:
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise InputError(
            f"input {tensor.name!r} is no array", why=str(error), hint="give a NumPy array"
        ) from error
    dtype = numpy_dtype(tensor.dtype)
    if array.dtype != dtype:
        raise InputError(
            f"input {tensor.name!r} has the wrong element type",
            why=f"it is {array.dtype}, the model takes {tensor.dtype}",
            hint=f"convert it: array.astype({str(dtype)!r})",
        )
    fits = len(array.shape) == len(tensor.shape) and all(
        isinstance(dim, str) or dim == size
        for dim, size in zip(tensor.shape, array.shape, strict=True)
    )
    if not fits:
        raise InputError(
            f"input {tensor.name!r} has the wrong shape",
            why=f"it is {_dims(array.shape)}, the model takes {_dims(tensor.shape)}",
            hint="reshape it",
        )
    planned = manifest.planned_shapes[tensor.name]
    if any(size > limit for size, limit in zip(array.shape, planned, strict=True)):
        shape = as_option({tensor.name: array.shape})
        raise BudgetError(
            f"input {tensor.name!r} is larger than planned for",
            why=f"it is {_dims(array.shape)}, the engine was planned for {_dims(planned)}",
            hint=f"plan for it: --shapes {shape}, or SwapExecutor(…, shapes=…)",
        )
    return np.asarray(array, order="C")


def _dims(shape: tuple[int | str, ...]) -> str:
    return "x".join(map(str, shape)) or "a scalar"


def index_limits(manifest: Manifest) -> dict[str, int]:
    """Rows of the table that each model input indexes."""
    return {b.inputs[0]: b.lookup.count for b in manifest.blocks if b.lookup is not None}


def planned_sample(manifest: Manifest, seed: int = 0) -> dict[str, Array]:
    """Seeded inputs of the planned shapes that are valid for the model."""
    return sample_inputs(
        [(t.name, t.dtype, manifest.planned_shapes[t.name]) for t in manifest.inputs],
        index_limits(manifest),
        seed,
    )
