"""Steps that are executed in strips of rows: the same session on parts of its inputs."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import prod
from typing import Any, NamedTuple

import numpy as np

from swapnet.errors import BudgetError
from swapnet.executor.backends.base import Bindings, Segment
from swapnet.executor.planning.layout import inside_run, strip_value
from swapnet.executor.planning.plan import Step
from swapnet.executor.swapping.actual_shapes import Shape, ShapeError, StripShapes
from swapnet.manifest import Manifest
from swapnet.strips import Rows, Run, Striped, Strips, strips_of
from swapnet.tensors import Array, numpy_dtype

__all__ = ["OneStrip", "StripedSegment", "rows_of", "run_of", "strip_heights"]


def run_of(manifest: Manifest, striped: Striped) -> Run:
    """The run that is in strips."""
    blocks = striped.first, striped.last
    return next(run for run in manifest.runs if (run.first, run.last) == blocks)


def rows_of(manifest: Manifest, run: Run) -> dict[str, Rows]:
    """Rows of all tensors that strips have a place for: inputs, outputs, and values inside."""
    name, rows = next(iter(run.inputs.items()))
    unit = manifest.rows[name].per_unit // rows.per_unit
    hidden = inside_run(manifest, run)
    inside = {
        name: Rows(rows.per_unit // unit, rows.channels, rows.axis)
        for name, rows in manifest.rows.items()
        if name in hidden and manifest.is_sized(manifest.tensors[name])
    }
    return {**run.inputs, **inside, **run.outputs}


def strip_heights(manifest: Manifest, run: Run, count: int) -> dict[str, tuple[int, int | None]]:
    """The axis and the number of rows of each tensor in a strip, by the manifest.

    None, for any number, where it does not say those of each input, or where rows have open sizes.
    """
    cut = rows_of(manifest, run)
    shapes = {name: manifest.tensors[name].shape for name in cut}
    fixed = {n: height for n, r in cut.items() if isinstance(height := shapes[n][r.axis], int)}
    axes = {name: cut[name].axis for name in fixed}
    widths = (dim for name, axis in axes.items() for dim in shapes[name][axis + 1 :])
    if not fixed.keys() >= run.inputs.keys() or any(isinstance(dim, str) for dim in widths):
        return {name: (axis, None) for name, axis in axes.items()}
    strips = strips_of(run, {name: fixed[name] for name in run.inputs}, count)
    return {n: (axis, fixed[n] - strips.left_out(cut[n])) for n, axis in axes.items()}


class StripedSegment:
    """The segment of a run in strips; see `swapnet.strips`.

    Parameters
    ----------
    make
        Makes the segment of the run's blocks, which reads and writes at the places of a strip.
    manifest, step
        The engine, and a step of a run in strips.
    bindings
        Addresses of placed values, and their shapes.
    """

    def __init__(
        self,
        make: Callable[[Bindings], Segment],
        manifest: Manifest,
        step: Step,
        bindings: Bindings,
    ) -> None:
        assert bindings.actual is not None
        assert step.strips is not None
        striped = step.strips
        self._run = run_of(manifest, striped)
        self._reads, self._gives = step.first == striped.first, step.last == striped.last
        self._striped = striped
        self._rows = rows_of(manifest, self._run)
        planned = bindings.actual.planned
        self._planned_shapes = {name: planned[name] for name in self._rows}
        self._planned = {name: planned[name][rows.axis] for name, rows in self._rows.items()}
        heights = strip_heights(manifest, self._run, striped.count)
        self._are_open = all(height is None for _, height in heights.values())
        self._dtypes = {name: numpy_dtype(manifest.tensors[name].dtype) for name in self._rows}
        self._actual = bindings.actual
        self._at = bindings.values
        self._places = {n: self._at[strip_value(striped.first, n)] for n in striped.nbytes}
        self._shapes = StripShapes()
        self._whole: dict[str, Shape] = {}
        values = {n: at for n, at in bindings.values.items() if n not in self._rows}
        self._segment = make(
            replace(bindings, values={**values, **self._places}, strip=self._shapes)
        )

    def run(
        self, given: dict[str, Any], results: Mapping[str, Array], strip: int | None = None
    ) -> None:
        run = self._run
        whole = {n: self._array(n, given, results) for n in (*run.inputs, *run.outputs)}
        strips = self._strips(whole)
        shapes = self._shapes.by_name
        parts = {n: _at_address(self._places[n], self._dtypes[n], shapes[n]) for n in whole}
        for each in strips.strips if strip is None else strips.strips[strip : strip + 1]:
            for name, rows in run.inputs.items() if self._reads else ():
                start, stop = strips.crop(rows, whole[name].shape[rows.axis], each)
                np.copyto(_planes(parts[name], rows), _planes(whole[name], rows)[:, start:stop])
            try:
                self._segment.run(given, results)
            except ShapeError as error:
                raise self._of_the_whole(error, strips) from error
            for name, rows in run.outputs.items() if self._gives else ():
                height = whole[name].shape[rows.axis]
                top, _ = strips.crop(rows, height, each)
                start, stop = strips.given(rows, height, each)
                np.copyto(
                    _planes(whole[name], rows)[:, start:stop],
                    _planes(parts[name], rows)[:, start - top : stop - top],
                )

    def _array(self, name: str, given: Mapping[str, Any], results: Mapping[str, Array]) -> Array:
        if name in self._at:
            return _at_address(self._at[name], self._dtypes[name], self._actual.by_name[name])
        return results[name] if name in results else np.ascontiguousarray(given[name])

    def _strips(self, whole: Mapping[str, Array]) -> Strips:
        """The strips of the running inference, whose shapes are noted."""
        shapes = {**self._actual.by_name, **{name: array.shape for name, array in whole.items()}}
        heights = {name: shapes[name][rows.axis] for name, rows in self._rows.items()}
        narrower = self._narrower(shapes) if self._are_open else 1.0
        room = {
            name: self._striped.nbytes[name] // max(self._row_bytes(name, shapes), 1)
            for name in self._rows
        }
        count = self._striped.count
        strips = strips_of(self._run, heights, count, self._planned, self._rows, narrower, room)
        if self._striped.apart and len(strips.strips) > count:
            raise BudgetError(
                f"blocks {self._run.first} to {self._run.last} do not fit in their strips",
                why=f"at this size there are {len(strips.strips)}, {count} were planned",
                hint="give a budget in which no blocks are in strips",
            )
        if shapes != self._whole:
            self._whole = shapes
            parts = dict(shapes)
            for name, rows in self._rows.items():
                parts[name] = _with_rows(shapes[name], rows, -strips.left_out(rows))
                nbytes = prod(parts[name]) * self._dtypes[name].itemsize
                if nbytes > self._striped.nbytes[name]:
                    raise BudgetError(
                        f"a strip of {name!r} is larger than planned for",
                        why=f"it takes {nbytes} bytes, {self._striped.nbytes[name]} were planned",
                        hint="give a budget in which no blocks are in strips",
                    )
            self._shapes.by_name = parts
        return strips

    def _row_bytes(self, name: str, shapes: Mapping[str, Shape]) -> int:
        one = _with_rows(shapes[name], self._rows[name], 1 - shapes[name][self._rows[name].axis])
        return prod(one) * self._dtypes[name].itemsize

    def _narrower(self, shapes: Mapping[str, Shape]) -> float:
        """Elements of a planned row over those of a row; at least 1, and no more than fit."""
        found: list[float] = []
        for name, shape in self._planned_shapes.items():
            more_images = max(shapes[name][0] / max(shape[0], 1), 1.0)
            inner = self._rows[name].axis + 1
            pixels = prod(shape[inner:]) / max(prod(shapes[name][inner:]), 1)
            found.append(pixels / more_images)
        return max(1.0, min(found))

    def _of_the_whole(self, error: ShapeError, strips: Strips) -> ShapeError:
        """What ONNX Runtime says of a strip, said of the whole."""
        rows = self._rows.get(error.name)
        if rows is None or len(error.shape) <= rows.axis:
            return error
        shape = _with_rows(error.shape, rows, strips.left_out(rows))
        return ShapeError(error.what, error.name, shape)


class OneStrip(NamedTuple):
    """One strip of a `StripedSegment`."""

    segment: Any
    strip: int

    def run(self, given: dict[str, Any], results: Mapping[str, Array]) -> None:
        self.segment.run(given, results, self.strip)


def _at_address(address: int, dtype: np.dtype[Any], shape: Sequence[int]) -> Array:
    memory = (ctypes.c_ubyte * (prod(shape) * dtype.itemsize)).from_address(address)
    array: Array = np.frombuffer(memoryview(memory), dtype).reshape(shape)
    return array


def _with_rows(shape: Shape, rows: Rows, more: int) -> Shape:
    """A shape with so many more rows."""
    return (*shape[: rows.axis], shape[rows.axis] + more, *shape[rows.axis + 1 :])


def _planes(array: Array, rows: Rows) -> Array:
    """A tensor as (planes, rows, elements of a row): rows can be cut there in any layout."""
    outer = prod(array.shape[: rows.axis]) // rows.channels
    inner = prod(array.shape[rows.axis + 1 :]) * rows.channels
    planes: Array = array.reshape(outer, array.shape[rows.axis], inner)
    return planes
