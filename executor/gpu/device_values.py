"""Values on a GPU: all of them, or those across cuts, where the library copies the others."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from math import prod
from typing import Any

import numpy as np

from swapnet.executor.gpu.accelerator import Accelerator, MemoryKind, Stream
from swapnet.executor.gpu.memory import DeviceArray
from swapnet.executor.planning.layout import (
    ValueLayout,
    lay_out_all,
    lay_out_staged,
    lay_out_values,
)
from swapnet.executor.swapping.host_values import all_outputs, new_outputs, placed
from swapnet.manifest import Manifest, Tensor
from swapnet.tensors import Array, numpy_dtype

__all__ = ["CrossingValues", "GpuValues"]


class GpuValues:
    """Values on the device, and page-locked copies of those that the host uses; see `ValueStore`.

    Parameters
    ----------
    manifest
        The engine: its planned shapes are the largest.
    accelerator, stream
        The GPU, and the stream that executes.
    on_begin
        Called at the beginning of each inference.
    layout
        Places on the device; by default of all inputs, values and outputs.

    Attributes
    ----------
    addresses
        Address of each value on the device.
    shapes
        Shape of each value in the running inference.
    kept
        Addresses of what lies in other memory in the running inference: a decoder's cache.

    Raises
    ------
    BudgetError
        There is not enough memory.
    """

    actual = None

    def __init__(
        self,
        manifest: Manifest,
        accelerator: Accelerator,
        stream: Stream,
        on_begin: Callable[[], None],
        layout: ValueLayout | None = None,
    ) -> None:
        self._manifest = manifest
        self._accelerator = accelerator
        self._stream = stream
        self._on_begin = on_begin
        layout = layout or lay_out_all(manifest)
        self._device = accelerator.allocate(MemoryKind.DEVICE, layout.nbytes)
        start = self._device.address
        self.addresses = {name: start + offset for name, offset in layout.offsets.items()}
        self._pinned = lay_out_staged(manifest)
        self._host = accelerator.allocate(MemoryKind.PINNED, self._pinned.nbytes)
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.kept: dict[str, int] = {}

    def __contains__(self, name: str) -> bool:
        return name in self.addresses

    def array(self, name: str) -> Array:
        """A copy of a value; work on the device ends first."""
        (array,) = self._fetch([name], {})
        return array

    @contextmanager
    def writing(self, name: str, shape: tuple[int, ...]) -> Iterator[Array]:
        """Page-locked memory; copied to the device before anything else is executed."""
        array = self._staged(name, shape)
        yield array
        self.shapes[name] = shape
        if array.nbytes:
            self._accelerator.copy_in(self._stream, self.addresses[name], _bytes(array))

    def begin(
        self, inputs: Mapping[str, Any], out: Mapping[str, Any]
    ) -> tuple[dict[str, Any], dict[str, Array]]:
        self._on_begin()
        lying = {n: a for n, a in {**inputs, **out}.items() if isinstance(a, DeviceArray)}
        self.kept = {name: array.address for name, array in lying.items()}
        self.shapes = {name: array.shape for name, array in lying.items()}
        for name, array in inputs.items():
            if name not in lying:
                with self.writing(name, array.shape) as staged:
                    staged[...] = array
        return dict(inputs), {}

    def give_back(self, block: int) -> None:
        pass

    def finish(
        self, given: Mapping[str, Any], results: Mapping[str, Array], out: Mapping[str, Array]
    ) -> dict[str, Array]:
        names = [t.name for t in self._manifest.outputs if t.name not in self.kept]
        return dict(zip(names, self._fetch(names, out), strict=True))

    def close(self) -> None:
        self._device.free()
        self._host.free()

    def _fetch(self, names: list[str], out: Mapping[str, Array]) -> list[Array]:
        staged = [self._staged(name, self.shapes[name]) for name in names]
        for name, array in zip(names, staged, strict=True):
            if array.nbytes:
                self._accelerator.copy_out(self._stream, _bytes(array), self.addresses[name])
        self._stream.synchronize()
        return [
            placed(array, name, out) if name in out else array.copy()
            for name, array in zip(names, staged, strict=True)
        ]

    def _staged(self, name: str, shape: tuple[int, ...]) -> Array:
        dtype = numpy_dtype(self._manifest.tensors[name].dtype)
        view = self._host.view(self._pinned.offsets[name], prod(shape) * dtype.itemsize)
        return np.frombuffer(view, dtype).reshape(shape)


class CrossingValues(GpuValues):
    """Values across cuts lie on the device; inputs and outputs are host arrays."""

    def __init__(
        self,
        manifest: Manifest,
        accelerator: Accelerator,
        stream: Stream,
        on_begin: Callable[[], None],
        as_array: Callable[[Any], Array],
    ) -> None:
        super().__init__(manifest, accelerator, stream, on_begin, lay_out_values(manifest))
        self._as_array = as_array

    def begin(
        self, inputs: Mapping[str, Array], out: Mapping[str, Array]
    ) -> tuple[dict[str, Any], dict[str, Array]]:
        self._on_begin()
        tensors = self._manifest.tensors
        self.shapes = {name: tuple(map(int, tensors[name].shape)) for name in self.addresses}
        fixed = {t.name: known for t in self._manifest.outputs if (known := _fixed(t)) is not None}
        return dict(inputs), new_outputs(self._manifest, inputs, out, fixed)

    def finish(
        self, given: Mapping[str, Any], results: Mapping[str, Array], out: Mapping[str, Array]
    ) -> dict[str, Array]:
        self._stream.synchronize()
        return all_outputs(self._manifest, given, results, out, self._as_array)


def _fixed(tensor: Tensor) -> tuple[int, ...] | None:
    dims = tuple(dim for dim in tensor.shape if isinstance(dim, int))
    return dims if len(dims) == len(tensor.shape) else None


def _bytes(array: Array) -> memoryview:
    return array.reshape(-1).view(np.uint8).data
