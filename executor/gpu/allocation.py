"""Serve a runtime library's requests for memory: counted, limited, from a chosen source."""

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
    """A source of memory."""

    def take(self, nbytes: int, alignment: int) -> int | None:
        """Address of new memory, or None where there is not enough."""

    def give(self, address: int) -> bool:
        """Take memory back; True if it was this source's."""


class Heap:
    """Device memory, each piece reserved by itself; see `Source`.

    Attributes
    ----------
    used_bytes
        Memory that is reserved now.
    limit_bytes
        Upper limit of ``used_bytes``; None for no limit.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self._accelerator = accelerator
        self._buffers: dict[int, Buffer] = {}
        self.used_bytes = 0
        self.limit_bytes: int | None = None

    def take(self, nbytes: int, alignment: int) -> int | None:
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
    """One place in an arena, filled from its start by one engine; see `Source`.

    Memory that is given back is not used again: a library may still copy to it.

    Attributes
    ----------
    used_bytes
        Memory that was taken since the region was made.
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
    """Requests of a library: served by the source that a thread named, or by the heap.

    The library asks from the thread that called it, and from its own threads.

    Parameters
    ----------
    heap
        Source of threads that named none, and of those with a full one.

    Attributes
    ----------
    refused
        The latest request that was refused, in words; empty where none was.
    """

    def __init__(self, heap: Heap) -> None:
        self._heap = heap
        self._here = threading.local()
        self._owners: dict[int, Source] = {}
        self._lock = threading.RLock()
        self.refused = ""

    @contextmanager
    def into(self, source: Source) -> Iterator[None]:
        """Serve requests of this thread from ``source`` in the ``with`` statement."""
        before = getattr(self._here, "source", None)
        self._here.source = source
        self.refused = ""
        try:
            yield
        finally:
            self._here.source = before

    def allocate(self, nbytes: int, alignment: int) -> int | None:
        """Address of new memory; None for 0 bytes, and where there is not enough."""
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
        """Give memory back; True if the address was known, or 0."""
        if not address:
            return True
        with self._lock:
            source = self._owners.pop(address, None)
            return source is not None and source.give(address)
