"""Host memory for values that live across cuts, at fixed offsets."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from math import prod
from typing import Any

import numpy as np

from swapnet.errors import InputError
from swapnet.executor.planning.layout import lay_out_values, span_of
from swapnet.executor.swapping.actual_shapes import ActualShapes
from swapnet.executor.swapping.arena import Arena, new_array
from swapnet.manifest import Manifest
from swapnet.strips import Striping
from swapnet.tensors import Array, as_dims, numpy_dtype

__all__ = ["Values", "all_outputs", "new_outputs", "placed"]


class Values:
    """Host memory for all values of known size; see `ValueStore`.

    Parameters
    ----------
    manifest
        The engine.
    as_array
        `Backend.array`, for model outputs of unknown size, which the backend allocates.
    inside
        Memory for values inside blocks; by default these lie among the others.
    striping
        The blocks that are executed in strips, if any.
    """

    def __init__(
        self,
        manifest: Manifest,
        as_array: Callable[[Any], Array],
        inside: Arena | None = None,
        striping: Striping | None = None,
    ) -> None:
        self._manifest = manifest
        self._as_array = as_array
        own = lay_out_values(manifest, striping, inside=None if inside is None else False)
        self._layout = own
        self._arena = Arena(own.nbytes)
        self._places = {name: (self._arena, offset) for name, offset in own.offsets.items()}
        if inside is not None:
            layout = lay_out_values(manifest, striping, inside=True)
            self._places |= {name: (inside, offset) for name, offset in layout.offsets.items()}
        self.actual = ActualShapes(manifest)

    @property
    def addresses(self) -> dict[str, int]:
        return {name: arena.address + offset for name, (arena, offset) in self._places.items()}

    def __contains__(self, name: str) -> bool:
        return name in self._places

    def array(self, name: str) -> Array:
        """A placed value, not copied."""
        tensor = self._manifest.tensors[name]
        shape = self.actual.by_name[name]
        dtype = numpy_dtype(tensor.dtype)
        arena, offset = self._places[name]
        view = arena.view(offset, prod(shape) * dtype.itemsize)
        return np.frombuffer(view, dtype).reshape(shape)

    @contextmanager
    def writing(self, name: str, shape: tuple[int, ...]) -> Iterator[Array]:
        yield self.array(name)

    def begin(
        self, inputs: Mapping[str, Array], out: Mapping[str, Array]
    ) -> tuple[dict[str, Any], dict[str, Array]]:
        self.actual.begin(inputs)
        self._arena.take_huge_pages()
        return dict(inputs), new_outputs(self._manifest, inputs, out, self.actual.by_name)

    def give_back(self, block: int) -> None:
        self._arena.keep(self._layout.kept(span_of(self._manifest, block, block)[0]))

    def finish(
        self, given: Mapping[str, Any], results: Mapping[str, Array], out: Mapping[str, Array]
    ) -> dict[str, Array]:
        return all_outputs(self._manifest, given, results, out, self._as_array)

    def close(self) -> None:
        self._arena = Arena(0)


def new_outputs(
    manifest: Manifest,
    inputs: Mapping[str, Array],
    out: Mapping[str, Array],
    shapes: Mapping[str, tuple[int, ...]],
) -> dict[str, Array]:
    """Arrays for the model outputs of known ``shapes``, and copies of those that are inputs too.

    They are the arrays in ``out`` where there are such.
    """
    arrays = {}
    for tensor in manifest.outputs:
        name = tensor.name
        if name in inputs:
            arrays[name] = placed(inputs[name], name, out) if name in out else inputs[name].copy()
        elif name in shapes and name not in out:
            arrays[name] = new_array(tensor, shapes[name])
        elif name in shapes and out[name].shape == shapes[name]:
            arrays[name] = out[name]
    return arrays


def all_outputs(
    manifest: Manifest,
    given: Mapping[str, Any],
    results: Mapping[str, Array],
    out: Mapping[str, Array],
    as_array: Callable[[Any], Array],
) -> dict[str, Array]:
    """All model outputs: ``results``, and those that the backend allocated, `placed` in ``out``."""
    return {
        t.name: results[t.name]
        if t.name in results
        else placed(as_array(given[t.name]), t.name, out)
        for t in manifest.outputs
    }


def placed(output: Array, name: str, out: Mapping[str, Array]) -> Array:
    """A model output, copied into the array that the caller gave for it, if any.

    Raises
    ------
    InputError
        The array has another shape.
    """
    array = out.get(name)
    if array is None:
        return output
    if array.shape != output.shape:
        raise InputError(
            f"output {name!r} does not fit into the array that was given for it",
            why=f"it is {as_dims(output.shape)} for these inputs, "
            f"the array is {as_dims(array.shape)}",
            hint="give an array of that shape, or leave it out",
        )
    array[...] = output
    return array
