"""Memory that a runtime library asks for: counted, limited, and from where it is told to."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from swapnet.errors import BudgetError
from swapnet.executor.gpu.accelerator import Accelerator, Buffer, MemoryKind
from swapnet.units import align_up

__all__ = ["Allocations", "Heap", "Region", "Source"]

_ALIGNMENT = 256


class Source(Protocol):
    """Where memory comes from."""

    def take(self, nbytes: int, alignment: int) -> int | None:
        """An address, or None where there is not so much."""

    def give(self, address: int) -> bool:
        """Take memory back; whether it was of this source."""


class Heap:
    """Device memory, each piece reserved by itself.

    Parameters
    ----------
    accelerator
        Whose memory.

    Attributes
    ----------
    used_bytes
        Reserved now.
    limit_bytes
        Reserved at most; None for no limit.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self._accelerator = accelerator
        self._buffers: dict[int, Buffer] = {}
        self.used_bytes = 0
        self.limit_bytes: int | None = None

    def take(self, nbytes: int, alignment: int) -> int | None:
        """See `Source.take`; what the driver aligns."""
        if self.limit_bytes is not None and self.used_bytes + nbytes > self.limit_bytes:
            return None
        try:
            buffer = self._accelerator.allocate(MemoryKind.DEVICE, nbytes)
        except BudgetError:
            return None
        if alignment and buffer.address % alignment:
            buffer.free()
            return None
        self._buffers[buffer.address] = buffer
        self.used_bytes += nbytes
        return buffer.address

    def give(self, address: int) -> bool:
        buffer = self._buffers.pop(address, None)
        if buffer is None:
            return False
        self.used_bytes -= buffer.nbytes
        buffer.free()
        return True

    def close(self) -> None:
        """Give everything back. Safe to call twice."""
        for address in tuple(self._buffers):
            self.give(address)


class Region:
    """One place in an arena, filled from its start by one engine.

    What is given back is not used again: a library may do so while it still copies to it.

    Parameters
    ----------
    address, nbytes
        Of the place.

    Attributes
    ----------
    used_bytes
        Taken since it was made.
    """

    def __init__(self, address: int, nbytes: int) -> None:
        self._address = address
        self._nbytes = nbytes
        self._taken: set[int] = set()
        self.used_bytes = 0

    def take(self, nbytes: int, alignment: int) -> int | None:
        start = align_up(self._address + self.used_bytes, max(alignment, _ALIGNMENT))
        end = start + nbytes - self._address
        if end > self._nbytes:
            return None
        self.used_bytes = end
        self._taken.add(start)
        return start

    def give(self, address: int) -> bool:
        if address not in self._taken:
            return False
        self._taken.remove(address)
        return True


class Allocations:
    """Requests of a library: to the source that a thread named, or to the heap.

    The library asks from the thread that called it, and from threads of its own.

    Parameters
    ----------
    heap
        Where nothing else was named, and where a source is full.

    Attributes
    ----------
    refused
        The latest request that could not be met, in words; empty where all were.
    """

    def __init__(self, heap: Heap) -> None:
        self._heap = heap
        self._here = threading.local()
        self._owners: dict[int, Source] = {}
        self._lock = threading.RLock()
        self.refused = ""

    @contextmanager
    def into(self, source: Source) -> Iterator[None]:
        """Requests of this thread go to ``source`` while the block of the ``with`` runs."""
        before = getattr(self._here, "source", None)
        self._here.source = source
        self.refused = ""
        try:
            yield
        finally:
            self._here.source = before

    def allocate(self, nbytes: int, alignment: int) -> int | None:
        """An address, or None: for nothing, and where there is not so much."""
        if not nbytes:
            return None
        named: Source = getattr(self._here, "source", None) or self._heap
        with self._lock:
            for source in (named, self._heap):
                address = source.take(nbytes, alignment)
                if address is not None:
                    self._owners[address] = source
                    return address
            self.refused = f"{nbytes} bytes aligned to {alignment} do not fit"
            return None

    def deallocate(self, address: int) -> bool:
        """Give memory back; whether it was known, or none."""
        if not address:
            return True
        with self._lock:
            source = self._owners.pop(address, None)
            return source is not None and source.give(address)
