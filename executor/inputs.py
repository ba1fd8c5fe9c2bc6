"""Check the arrays that a caller gives against the inputs of a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from swapnet.errors import BudgetError, InputError
from swapnet.executor.backends.base import Array
from swapnet.input_checks import check_array, check_names
from swapnet.manifest import Manifest
from swapnet.sampling import sample_inputs
from swapnet.shapes import shapes_of, sizes_option
from swapnet.symbols import largest_sizes
from swapnet.tensors import as_dims

__all__ = ["check_inputs", "index_limits", "planned_sample"]


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
