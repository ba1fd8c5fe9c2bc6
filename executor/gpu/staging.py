"""Load bytes from storage to a GPU's own memory, through page-locked host memory."""

from __future__ import annotations

from dataclasses import dataclass
from queue import SimpleQueue

from swapnet.executor.gpu.accelerator import Accelerator, Event, MemoryKind, Stream
from swapnet.executor.gpu.clock import Clock, GpuMark
from swapnet.executor.gpu.memory import GpuArena
from swapnet.executor.planning.plan import Read
from swapnet.executor.swapping.loading import BeforeRead, Reader
from swapnet.executor.swapping.moments import Mark

__all__ = ["StagedLoader"]


@dataclass(frozen=True)
class _Slot:
    """A part of the staging memory, and the end of the latest copy from it."""

    offset: int
    copied: Event | None = None


class StagedLoader:
    """Reads into a ring of slots and copies from there on its own stream; see `Loader`.

    The host waits for storage and for a free slot, never for kernels: the copy waits for them on
    the device.

    Parameters
    ----------
    storage, arena
        Source and destination.
    accelerator, stream
        The GPU, and the stream of the copies.
    clock
        Clock of the marks.
    largest_bytes, slots
        Upper limits of one request, and of the requests in flight.
    before_read
        See `BeforeRead`; called when the place is free on the device.
    """

    def __init__(
        self,
        storage: Reader,
        arena: GpuArena,
        accelerator: Accelerator,
        stream: Stream,
        clock: Clock,
        *,
        largest_bytes: int,
        slots: int,
        before_read: BeforeRead | None = None,
    ) -> None:
        self._storage = storage
        self._arena = arena
        self._accelerator = accelerator
        self._stream = stream
        self._clock = clock
        self.largest_bytes = largest_bytes
        self._before_read = before_read
        self._staging = accelerator.allocate(MemoryKind.PINNED, slots * largest_bytes)
        self._slots: SimpleQueue[_Slot] = SimpleQueue()
        for number in range(slots):
            self._slots.put(_Slot(number * largest_bytes))

    def load(self, read: Read, after: Mark | None) -> Mark:
        slot = self._slots.get()
        copied: Event | None = None
        try:
            if slot.copied is not None:
                slot.copied.synchronize()
            staged = self._staging.view(slot.offset, read.nbytes)
            self._storage.read_into(staged, read.file_offset)
            if isinstance(after, GpuMark):
                self._stream.wait(after.event)
            if self._before_read is not None:
                self._before_read(read)
            self._accelerator.copy_in(self._stream, self._arena.address + read.arena_offset, staged)
            copied = self._stream.record()
            return GpuMark(copied, self._clock)
        finally:
            self._slots.put(_Slot(slot.offset, copied))

    def reset(self) -> None:
        pass

    def close(self) -> None:
        self._staging.free()
