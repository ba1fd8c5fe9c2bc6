"""Values on a GPU: all of them, or those across cuts while the library moves what it is given."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from math import prod
from typing import Any

import numpy as np

from swapnet.executor.gpu.accelerator import Accelerator, MemoryKind, Stream
from swapnet.executor.planning.layout import (
    ValueLayout,
    lay_out_all,
    lay_out_staged,
    lay_out_values,
)
from swapnet.executor.swapping.host_values import Values
from swapnet.manifest import Manifest
from swapnet.tensors import Array, numpy_dtype

__all__ = ["CrossingValues", "GpuValues", "Transfer"]


class Transfer:
    """Values in device memory, and page-locked memory for those that the host reads or writes.

    Parameters
    ----------
    layout, pinned
        Where they lie on the device, and on the host.
    accelerator, stream
        Whose memory, and the stream that executes.

    Raises
    ------
    BudgetError
        There is not so much memory.
    """

    def __init__(
        self, layout: ValueLayout, pinned: ValueLayout, accelerator: Accelerator, stream: Stream
    ) -> None:
        self._pinned = pinned
        self._accelerator = accelerator
        self._stream = stream
        self._device = accelerator.allocate(MemoryKind.DEVICE, layout.nbytes)
        start = self._device.address
        self.addresses = {name: start + offset for name, offset in layout.offsets.items()}
        """Of each value on the device."""
        self._host = accelerator.allocate(MemoryKind.PINNED, pinned.nbytes)

    def staged(self, name: str, dtype: str, shape: tuple[int, ...]) -> Array:
        """The page-locked copy of a value."""
        kind = numpy_dtype(dtype)
        view = self._host.view(self._pinned.offsets[name], prod(shape) * kind.itemsize)
        return np.frombuffer(view, kind).reshape(shape)

    def to_device(self, name: str, array: Array) -> None:
        """Enqueue a copy of a page-locked array."""
        if array.nbytes:
            self._accelerator.copy_in(self._stream, self.addresses[name], _bytes(array))

    def to_host(self, name: str, array: Array) -> None:
        """Enqueue a copy to a page-locked array."""
        if array.nbytes:
            self._accelerator.copy_out(self._stream, _bytes(array), self.addresses[name])

    def close(self) -> None:
        """Give both memories back. Safe to call twice."""
        self._device.free()
        self._host.free()


class GpuValues:
    """All inputs, values and outputs have a fixed place on the device; see `ValueStore`.

    Parameters
    ----------
    manifest
        The engine: its planned shapes are the largest.
    accelerator, stream
        Whose memory, and the stream that executes.
    on_begin
        Called at the beginning of each inference.
    """

    def __init__(
        self,
        manifest: Manifest,
        accelerator: Accelerator,
        stream: Stream,
        on_begin: Callable[[], None],
    ) -> None:
        self._manifest = manifest
        self._stream = stream
        self._on_begin = on_begin
        layout = lay_out_all(manifest)
        self._transfer = Transfer(layout, lay_out_staged(manifest), accelerator, stream)
        self.addresses: Mapping[str, int] = self._transfer.addresses
        self.shapes: dict[str, tuple[int, ...]] = {}
        """Of all values, in the inference that runs."""

    def __contains__(self, name: str) -> bool:
        return name in self.addresses

    def array(self, name: str) -> Array:
        """A copy; what is executed ends first."""
        (array,) = self._fetch([name])
        return array

    @contextmanager
    def writing(self, name: str, shape: tuple[int, ...]) -> Iterator[Array]:
        """Page-locked memory; copied to the device before what is executed next."""
        array = self._transfer.staged(name, self._manifest.tensors[name].dtype, shape)
        yield array
        self.shapes[name] = shape
        self._transfer.to_device(name, array)

    def begin(self, inputs: Mapping[str, Array]) -> tuple[dict[str, Any], dict[str, Array]]:
        """Copy the inputs to the device; outputs are copied back at the end."""
        self._on_begin()
        self.shapes = {}
        for name, array in inputs.items():
            with self.writing(name, array.shape) as staged:
                staged[...] = array
        return dict(inputs), {}

    def finish(self, given: Mapping[str, Any], results: Mapping[str, Array]) -> dict[str, Array]:
        """Wait for the device, and copy the outputs from it."""
        names = [tensor.name for tensor in self._manifest.outputs]
        return dict(zip(names, self._fetch(names), strict=True))

    def close(self) -> None:
        """Give the memory back. Safe to call twice."""
        self._transfer.close()

    def _fetch(self, names: list[str]) -> list[Array]:
        staged = [
            self._transfer.staged(n, self._manifest.tensors[n].dtype, self.shapes[n]) for n in names
        ]
        for name, array in zip(names, staged, strict=True):
            self._transfer.to_host(name, array)
        self._stream.synchronize()
        return [array.copy() for array in staged]


class CrossingValues(Values):
    """Values across cuts lie on the device; inputs and outputs are host arrays.

    Parameters
    ----------
    manifest, as_array
        See `Values`.
    accelerator, stream, on_begin
        See `GpuValues`.
    """

    def __init__(
        self,
        manifest: Manifest,
        as_array: Callable[[Any], Array],
        accelerator: Accelerator,
        stream: Stream,
        on_begin: Callable[[], None],
    ) -> None:
        super().__init__(manifest, as_array)
        self._stream = stream
        self._on_begin = on_begin
        layout = lay_out_values(manifest)
        self._transfer = Transfer(layout, lay_out_staged(manifest), accelerator, stream)

    @property
    def addresses(self) -> dict[str, int]:
        """Of each placed value, on the device."""
        return self._transfer.addresses

    def array(self, name: str) -> Array:
        """A copy; what is executed ends first."""
        tensor = self._manifest.tensors[name]
        shape = tuple(int(dim) for dim in tensor.shape)
        array = self._transfer.staged(name, tensor.dtype, shape)
        self._transfer.to_host(name, array)
        self._stream.synchronize()
        return array.copy()

    @contextmanager
    def writing(self, name: str, shape: tuple[int, ...]) -> Iterator[Array]:
        """Page-locked memory; copied to the device before what is executed next."""
        array = self._transfer.staged(name, self._manifest.tensors[name].dtype, shape)
        yield array
        self._transfer.to_device(name, array)

    def begin(self, inputs: Mapping[str, Array]) -> tuple[dict[str, Any], dict[str, Array]]:
        self._on_begin()
        return super().begin(inputs)

    def finish(self, given: Mapping[str, Any], results: Mapping[str, Array]) -> dict[str, Array]:
        """See `Values.finish`; the device has ended."""
        self._stream.synchronize()
        return super().finish(given, results)

    def close(self) -> None:
        """Give the memory back. Safe to call twice."""
        super().close()
        self._transfer.close()


def _bytes(array: Array) -> memoryview:
    return array.reshape(-1).view(np.uint8).data
