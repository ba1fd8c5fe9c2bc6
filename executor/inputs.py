"""Check the arrays that a caller gives against the inputs of a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from swapnet.errors import BudgetError, InputError
from swapnet.executor.backends.base import Array
from swapnet.input_checks import as_array, check_array, check_names, fits
from swapnet.manifest import Manifest, Tensor
from swapnet.sampling import sample_inputs
from swapnet.shapes import names_of, shapes_of, sizes_option
from swapnet.symbols import largest_sizes
from swapnet.tensors import as_dims, numpy_dtype
from swapnet.token_rows import with_rows

__all__ = ["check_inputs", "check_outputs", "index_limits", "planned_sample"]


def check_inputs(
    manifest: Manifest, inputs: Mapping[str, Any], *, copy: bool = False
) -> dict[str, Array]:
    """C-contiguous arrays for all model inputs.

    Parameters
    ----------
    manifest
        Manifest of the engine.
    inputs
        Arrays by name, or values that NumPy makes arrays of.
    copy
        Always return new arrays; otherwise those of the caller where they need no conversion.

    Raises
    ------
    InputError
        The model does not take such a name, element type or shape.
    BudgetError
        A shape is larger than planned for.
    """
    check_names(inputs, manifest.inputs)
    inputs = with_rows(inputs, manifest.inputs, manifest.planned_shapes)
    arrays = {t.name: check_array(inputs[t.name], t, copy=copy) for t in manifest.inputs}
    for name, array in arrays.items():
        planned = manifest.planned_shapes[name]
        if any(size > limit for size, limit in zip(array.shape, planned, strict=True)):
            option = _option_for(manifest, {n: array.shape for n, array in arrays.items()})
            raise BudgetError(
                f"input {name!r} is larger than planned for",
                why=f"it is {as_dims(array.shape)}, the engine was planned for {as_dims(planned)}",
                hint=f"plan for it: {option}, or SwapExecutor(…, {option[2:].split()[0]}=…)",
            )
    return arrays


def check_outputs(
    manifest: Manifest, out: Mapping[str, Any] | None, inputs: Mapping[str, Array]
) -> dict[str, Array]:
    """Arrays of a caller that take model outputs, for `ValueStore.begin`.

    Parameters
    ----------
    manifest
        Manifest of the engine.
    out
        NumPy arrays, or others that export DLPack, by output; None for none.
    inputs
        The checked inputs, which they must not overlap.

    Raises
    ------
    InputError
        The model does not give such a name, element type or shape, or a value can't be written
        there as it is.
    """
    if out is None:
        return {}
    outputs = {tensor.name: tensor for tensor in manifest.outputs}
    is_dict = isinstance(out, Mapping)
    unknown = sorted(map(str, out.keys() - outputs.keys())) if is_dict else []
    if not is_dict or unknown:
        raise InputError(
            f"unknown output {unknown[0]!r} in out=" if unknown else "out= is not a dict",
            why=f"the model gives {names_of(outputs)}",
            hint="give a dict of an array for each output that is to be written into one",
        )
    arrays = {name: _check_destination(value, outputs[name]) for name, value in out.items()}
    taken = list(inputs.items())
    for name, array in arrays.items():
        for other, memory in taken:
            if np.may_share_memory(array, memory):
                raise InputError(
                    f"the array for output {name!r} overlaps the one for {other!r}",
                    why="outputs may be written before all inputs are read",
                    hint="give each of them memory of its own",
                )
        taken.append((name, array))
    return arrays


def _check_destination(value: Any, output: Tensor) -> Array:
    what = f"output {output.name!r} can't be written into what was given for it"
    dtype = numpy_dtype(output.dtype)
    hint = f"give numpy.empty(shape, {str(dtype)!r})"
    if not isinstance(value, np.ndarray) and not hasattr(value, "__dlpack__"):
        raise InputError(what, why=f"it is {type(value).__name__}, not an array", hint=hint)
    array = as_array(value, f"output {output.name!r} in out=")
    flags = {
        "not C-contiguous": array.flags.c_contiguous,
        "not aligned": array.flags.aligned,
        "read-only": array.flags.writeable,
    }
    faults = [fault for fault, is_right in flags.items() if not is_right]
    if faults or array.dtype != dtype or not fits(array.shape, output.shape):
        given = ", ".join([f"{array.dtype} {as_dims(array.shape)}", *faults])
        raise InputError(
            what,
            why=f"it is {given}; the model gives {output.dtype} {as_dims(output.shape)}",
            hint=hint,
        )
    return array


def _option_for(manifest: Manifest, given: Mapping[str, tuple[int, ...]]) -> str:
    """The option that plans for these shapes beside the planned ones."""
    planned = manifest.planned_shapes
    try:
        sizes = largest_sizes(manifest.inputs, (given, planned))
        shapes = shapes_of(manifest.inputs, sizes)
    except InputError:
        shapes = {name: tuple(map(max, shape, planned[name])) for name, shape in given.items()}
    return sizes_option(manifest.inputs, shapes)


def index_limits(manifest: Manifest) -> dict[str, int]:
    """Number of rows in the table that each model input indexes."""
    return {b.inputs[0]: b.lookup.count for b in manifest.blocks if b.lookup is not None}


def planned_sample(manifest: Manifest, seed: int = 0) -> dict[str, Array]:
    """Seeded inputs of the planned shapes that are valid for the model."""
    return sample_inputs(
        [(t.name, t.dtype, manifest.planned_shapes[t.name]) for t in manifest.inputs],
        index_limits(manifest),
        seed,
        {t.name: t.shape for t in manifest.inputs},
    )
