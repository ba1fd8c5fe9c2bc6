"""Steps that are executed in strips of rows: the same session on parts of its inputs."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
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

__all__ = ["Cut", "OneStrip", "StripedSegment", "rows_of", "run_of", "strip_heights"]


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


class Cut:
    """A run in strips, in one plan: what the segments of its blocks have in common.

    Parameters
    ----------
    manifest, striped
        The engine, and the run.
    bindings
        Addresses of placed values, and their shapes.

    Attributes
    ----------
    run, rows
        The run, and the rows of its tensors.
    bindings
        Those of the segments, with the places of a strip and the shapes of its rows.
    """

    def __init__(self, manifest: Manifest, striped: Striped, bindings: Bindings) -> None:
        assert bindings.actual is not None
        self.run = run_of(manifest, striped)
        self.rows = rows_of(manifest, self.run)
        self._striped = striped
        planned = bindings.actual.planned
        self._planned_shapes = {name: planned[name] for name in self.rows}
        self._planned = {name: planned[name][rows.axis] for name, rows in self.rows.items()}
        heights = strip_heights(manifest, self.run, striped.count)
        self._are_open = all(height is None for _, height in heights.values())
        self._dtypes = {name: numpy_dtype(manifest.tensors[name].dtype) for name in self.rows}
        self._actual = bindings.actual
        self._at = bindings.values
        self._places = {n: self._at[strip_value(striped.first, n)] for n in striped.nbytes}
        self._shapes = StripShapes()
        self._whole: dict[str, Shape] = {}
        blocks = manifest.blocks[striped.first : striped.last + 1]
        self._touched = {name for block in blocks for name in (*block.inputs, *block.outputs)}
        values = {n: self._at[n] for n in self._touched - self.rows.keys() if n in self._at}
        self.bindings = replace(bindings, values={**values, **self._places}, strip=self._shapes)

    def whole(self, name: str, given: Mapping[str, Any], results: Mapping[str, Array]) -> Array:
        """All rows of an input or output of the run."""
        if name in self._at:
            return _at_address(self._at[name], self._dtypes[name], self._actual.by_name[name])
        return results[name] if name in results else np.ascontiguousarray(given[name])

    def part(self, name: str) -> Array:
        """The rows of a strip of it."""
        return _at_address(self._places[name], self._dtypes[name], self._shapes.by_name[name])

    def strips(self, whole: Mapping[str, Array]) -> Strips:
        """The strips of the running inference, whose shapes are noted."""
        actual = self._actual.by_name
        shapes = {name: actual[name] for name in self._touched if name in actual}
        shapes |= {name: array.shape for name, array in whole.items()}
        heights = {name: shapes[name][rows.axis] for name, rows in self.rows.items()}
        narrower = self._narrower(shapes) if self._are_open else 1.0
        room = {
            name: self._striped.nbytes[name] // max(self._row_bytes(name, shapes), 1)
            for name in self.rows
        }
        count = self._striped.count
        strips = strips_of(self.run, heights, count, self._planned, self.rows, narrower, room)
        if self._striped.apart and len(strips.strips) > count:
            raise BudgetError(
                f"blocks {self.run.first} to {self.run.last} do not fit in their strips",
                why=f"at this size there are {len(strips.strips)}, {count} were planned",
                hint="give a budget in which no blocks are in strips",
            )
        if shapes != self._whole:
            self._whole = shapes
            parts = dict(shapes)
            for name, rows in self.rows.items():
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
        one = _with_rows(shapes[name], self.rows[name], 1 - shapes[name][self.rows[name].axis])
        return prod(one) * self._dtypes[name].itemsize

    def _narrower(self, shapes: Mapping[str, Shape]) -> float:
        """Elements of a planned row over those of a row; at least 1, and no more than fit."""
        found: list[float] = []
        for name, shape in self._planned_shapes.items():
            more_images = max(shapes[name][0] / max(shape[0], 1), 1.0)
            inner = self.rows[name].axis + 1
            pixels = prod(shape[inner:]) / max(prod(shapes[name][inner:]), 1)
            found.append(pixels / more_images)
        return max(1.0, min(found))

    def of_the_whole(self, error: ShapeError, strips: Strips) -> ShapeError:
        """What ONNX Runtime says of a strip, said of the whole."""
        rows = self.rows.get(error.name)
        if rows is None or len(error.shape) <= rows.axis:
            return error
        shape = _with_rows(error.shape, rows, strips.left_out(rows))
        return ShapeError(error.what, error.name, shape)


class StripedSegment:
    """The segment of blocks of a run in strips; see `swapnet.strips`.

    Parameters
    ----------
    segment
        The segment of the blocks, which reads and writes at the places of a strip.
    step
        A step of a run in strips.
    cut
        The run.
    """

    def __init__(self, segment: Segment, step: Step, cut: Cut) -> None:
        self._segment = segment
        self._cut = cut
        self._reads, self._gives = step.first == cut.run.first, step.last == cut.run.last

    def run(
        self, given: dict[str, Any], results: Mapping[str, Array], strip: int | None = None
    ) -> None:
        cut, run = self._cut, self._cut.run
        whole = {n: cut.whole(n, given, results) for n in (*run.inputs, *run.outputs)}
        strips = cut.strips(whole)
        parts = {name: cut.part(name) for name in whole}
        for each in strips.strips if strip is None else strips.strips[strip : strip + 1]:
            for name, rows in run.inputs.items() if self._reads else ():
                start, stop = strips.crop(rows, whole[name].shape[rows.axis], each)
                np.copyto(_planes(parts[name], rows), _planes(whole[name], rows)[:, start:stop])
            try:
                self._segment.run(given, results)
            except ShapeError as error:
                raise cut.of_the_whole(error, strips) from error
            for name, rows in run.outputs.items() if self._gives else ():
                height = whole[name].shape[rows.axis]
                top, _ = strips.crop(rows, height, each)
                start, stop = strips.given(rows, height, each)
                np.copyto(
                    _planes(whole[name], rows)[:, start:stop],
                    _planes(parts[name], rows)[:, start - top : stop - top],
                )


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
