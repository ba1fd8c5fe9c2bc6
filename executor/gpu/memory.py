"""Weights on a GPU: one range of addresses, written by copies or by the host itself."""

from __future__ import annotations

import numpy as np

from swapnet.executor.gpu.accelerator import Accelerator, MemoryKind, Stream

__all__ = ["GpuArena"]


class GpuArena:
    """Memory of one kind; see `Memory`.

    Parameters
    ----------
    accelerator
        Whose memory.
    kind
        Where it lies.
    nbytes
        Size.
    stream
        Of the copies that write to it; None where the host itself does.

    Raises
    ------
    BudgetError
        There is not so much.
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
        """Writable bytes of a host-visible kind."""
        return self._buffer.view(offset, nbytes)

    def resize(self, nbytes: int) -> None:
        """Nothing to do for the same size.

        Raises
        ------
        BufferError
            The driver can't do that: other memory is reserved instead, and everything read again.
        """
        if nbytes != self.nbytes:
            raise BufferError(f"GPU memory of {self.nbytes} bytes can't become {nbytes}")

    def move(self, source: int, target: int, nbytes: int) -> None:
        """Nothing to do in the same place.

        Raises
        ------
        BufferError
            Places that may overlap are not copied on the device.
        """
        if source != target:
            raise BufferError(f"{nbytes} bytes of GPU memory stay at {source}")

    def fill(self, offset: int, nbytes: int, byte: int) -> None:
        """Overwrite a part."""
        if self._stream is None:
            np.frombuffer(self.view(offset, nbytes), np.uint8)[:] = byte
        else:
            self._accelerator.fill(self._stream, self.address + offset, nbytes, byte)

    def discard(self) -> None:
        """Give it back. Safe to call twice."""
        self._buffer.free()
