"""Memory for weights on a GPU: one range of addresses, written by copies or by the host."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from swapnet.executor.gpu.accelerator import Accelerator, MemoryKind, Stream

__all__ = ["DeviceArray", "GpuArena"]


@dataclass(frozen=True)
class DeviceArray:
    """An array in memory of a GPU, which kernels read and write where it lies."""

    address: int
    shape: tuple[int, ...]


class GpuArena:
    """Memory of one kind; see `Memory`.

    Parameters
    ----------
    accelerator
        The GPU.
    kind
        Kind of memory.
    nbytes
        Size.
    stream
        Stream of the copies that write to it; None where the host writes.

    Raises
    ------
    BudgetError
        There is not enough memory.
    """

    def __init__(
        self, accelerator: Accelerator, kind: MemoryKind, nbytes: int, stream: Stream | None
    ) -> None:
        self._accelerator = accelerator
        self._stream = stream
        self._buffer = accelerator.allocate(kind, nbytes)
        self.address = self._buffer.address
        self.nbytes = nbytes

    def view(self, offset: int, nbytes: int) -> memoryview:
        """Writable bytes ``offset`` to ``offset + nbytes``, in host-visible memory."""
        return self._buffer.view(offset, nbytes)

    def resize(self, nbytes: int) -> None:
        # The driver can't change the size: the executor reserves new memory, and reads all weights.
        if nbytes != self.nbytes:
            raise BufferError(f"GPU memory of {self.nbytes} bytes can't become {nbytes}")

    def move(self, source: int, target: int, nbytes: int) -> None:
        # Places that may overlap can't be copied on the device.
        if source != target:
            raise BufferError(f"{nbytes} bytes of GPU memory stay at {source}")

    def fill(self, offset: int, nbytes: int, byte: int) -> None:
        if self._stream is None:
            np.frombuffer(self.view(offset, nbytes), np.uint8)[:] = byte
        else:
            self._accelerator.fill(self._stream, self.address + offset, nbytes, byte)

    @contextmanager
    def on_host(self) -> Iterator[memoryview]:
        """All bytes in host memory; they are copied back when the ``with`` statement ends."""
        if self._stream is None:
            yield self.view(0, self.nbytes)
            return
        staged = self._accelerator.allocate(MemoryKind.PINNED, self.nbytes)
        try:
            view = staged.view(0, self.nbytes)
            self._accelerator.copy_out(self._stream, view, self.address)
            self._stream.synchronize()
            yield view
            self._accelerator.copy_in(self._stream, self.address, view)
            self._stream.synchronize()
        finally:
            staged.free()

    def discard(self) -> None:
        self._buffer.free()
