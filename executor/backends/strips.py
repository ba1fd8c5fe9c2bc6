"""A step that is executed in strips of rows: the same session on parts of its inputs."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import prod
from typing import Any

import numpy as np

from swapnet.executor.backends.base import Bindings, Segment
from swapnet.executor.planning.layout import strip_buffer
from swapnet.executor.swapping.actual_shapes import ShapeError
from swapnet.manifest import TENSOR_ALIGNMENT, Manifest
from swapnet.strips import Rows, Run, Striped, Strips, strips_of, units_of
from swapnet.tensors import Array, numpy_dtype
from swapnet.units import align_up

__all__ = ["StripedSegment", "beside_strips", "buffer_bytes", "run_of", "strip_heights"]


def run_of(manifest: Manifest, striped: Striped) -> Run:
    """The run that is in strips."""
    blocks = striped.first, striped.last
    return next(run for run in manifest.runs if (run.first, run.last) == blocks)


def buffer_bytes(run: Run, strips: Strips, sizes: Mapping[str, tuple[int, int]]) -> int:
    """Memory for the rows that a strip reads, from rows and bytes of each input."""
    return sum(
        align_up((height - strips.left_out(rows)) * (nbytes // height), TENSOR_ALIGNMENT)
        for name, rows in run.inputs.items()
        for height, nbytes in [sizes[name]]
    )


def strip_heights(manifest: Manifest, run: Run, count: int) -> dict[str, int | None]:
    """Rows of each tensor in a strip, where the manifest says those of the whole.

    None, for any number, where it does not say those of each input.
    """
    fixed = {
        name: (rows, height)
        for name, rows in (*run.inputs.items(), *run.outputs.items())
        if isinstance(height := manifest.tensors[name].shape[2], int)
    }
    if not fixed.keys() >= run.inputs.keys():
        return dict.fromkeys(fixed)
    strips = strips_of(run, {name: fixed[name][1] for name in run.inputs}, count)
    return {name: height - strips.left_out(rows) for name, (rows, height) in fixed.items()}


def beside_strips(bindings: Bindings, run: Run) -> Bindings:
    """Bindings without the tensors that strips take and give."""
    names = {*run.inputs, *run.outputs}
    values = {name: at for name, at in bindings.values.items() if name not in names}
    return replace(bindings, values=values)


class StripedSegment:
    """The segment of a run in strips; see `swapnet.strips`.

    Parameters
    ----------
    segment
        Executes the run's blocks on rows of their inputs, which it takes from ``given``, as it
        gives its outputs.
    manifest, striped
        The engine, and the run in strips.
    bindings
        Addresses of placed values, and their shapes.
    """

    def __init__(
        self, segment: Segment, manifest: Manifest, striped: Striped, bindings: Bindings
    ) -> None:
        assert bindings.actual is not None
        self._segment = segment
        self._run = run_of(manifest, striped)
        self._count = striped.count
        planned = {n: s[2] for n, s in bindings.actual.planned.items() if n in self._run.inputs}
        is_known = planned.keys() >= self._run.inputs.keys()
        self._planned_units = units_of(self._run, planned) if is_known else None
        self._dtypes = {name: numpy_dtype(t.dtype) for name, t in manifest.tensors.items()}
        self._actual = bindings.actual
        self._at = bindings.values
        at = bindings.values[strip_buffer(striped.first)]
        self._buffer = _at_address(at, np.dtype(np.uint8), [striped.buffer_bytes])

    def run(self, given: dict[str, Any], results: Mapping[str, Array]) -> None:
        run = self._run
        arrays = {n: self._whole(n, given, results) for n in (*run.inputs, *run.outputs)}
        heights = {name: array.shape[2] for name, array in arrays.items()}
        heights_in = {name: heights[name] for name in run.inputs}
        strips = strips_of(run, heights_in, self._count, self._planned_units)
        crops = self._crops(arrays, strips)
        others = {n: value for n, value in {**given, **results}.items() if n not in run.outputs}
        for strip in strips.strips:
            for name, rows in run.inputs.items():
                start, stop = strips.crop(rows, heights[name], strip)
                np.copyto(_planes(crops[name], rows), _planes(arrays[name], rows)[:, start:stop])
            part = {**others, **crops}
            self._segment.run(part, {})
            for name, rows in run.outputs.items():
                found = part[name].tensor
                source = _at_address(found.data_ptr(), self._dtypes[name], found.shape())
                self._check(name, source, arrays[name], heights[name] - strips.left_out(rows))
                top, _ = strips.crop(rows, heights[name], strip)
                start, stop = strips.given(rows, heights[name], strip)
                np.copyto(
                    _planes(arrays[name], rows)[:, start:stop],
                    _planes(source, rows)[:, start - top : stop - top],
                )
            # The arena gets the outputs back before the next strip binds others.
            part.clear()

    def _whole(self, name: str, given: Mapping[str, Any], results: Mapping[str, Array]) -> Array:
        if name in self._at:
            return _at_address(self._at[name], self._dtypes[name], self._actual.by_name[name])
        return results[name] if name in results else np.ascontiguousarray(given[name])

    def _check(self, name: str, source: Array, whole: Array, height: int) -> None:
        """Refuse an output of another shape than its formula says."""
        images, channels, found, *pixels = source.shape
        shape = (images, channels, found - height + whole.shape[2], *pixels)
        if shape != whole.shape:
            raise ShapeError(f"blocks {self._run.first} to {self._run.last} failed", name, shape)

    def _crops(self, arrays: Mapping[str, Array], strips: Strips) -> dict[str, Array]:
        sizes = {name: (arrays[name].shape[2], arrays[name].nbytes) for name in self._run.inputs}
        memory = self._buffer
        if (nbytes := buffer_bytes(self._run, strips, sizes)) > memory.nbytes:
            # Of another height than planned, some rows may be left that belong to every strip.
            memory = np.empty(nbytes, np.uint8)
        crops: dict[str, Array] = {}
        for name, rows in self._run.inputs.items():
            shape = list(arrays[name].shape)
            shape[2] -= strips.left_out(rows)
            nbytes = prod(shape) * arrays[name].itemsize
            crops[name] = memory[:nbytes].view(arrays[name].dtype).reshape(shape)
            memory = memory[align_up(nbytes, TENSOR_ALIGNMENT) :]
        return crops


def _at_address(address: int, dtype: np.dtype[Any], shape: Sequence[int]) -> Array:
    memory = (ctypes.c_ubyte * (prod(shape) * dtype.itemsize)).from_address(address)
    array: Array = np.frombuffer(memoryview(memory), dtype).reshape(shape)
    return array


def _planes(array: Array, rows: Rows) -> Array:
    """A tensor as (planes, rows, elements of a row): rows can be cut there in any layout."""
    images, channels, height = array.shape[:3]
    planes: Array = array.reshape(images * channels // rows.channels, height, -1)
    return planes
