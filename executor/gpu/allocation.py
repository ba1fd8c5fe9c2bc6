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
        """See `Source.take`; the driver aligns to 256 bytes."""
        if alignment > _ALIGNMENT:
            return None
        if self.limit_bytes is not None and self.used_bytes + nbytes > self.limit_bytes:
            return None
        try:
            buffer = self._accelerator.allocate(MemoryKind.DEVICE, nbytes)
        except BudgetError:
            return None
        self._buffers[buffer.address] = buffer
        self.used_bytes += nbytes
        return buffer.address

    def give(self, address: int) -> bool:
        """See `Source.give`."""
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
    """One place in an arena, filled from its start: it is emptied at once, as engines are.

    Parameters
    ----------
    address, nbytes
        Of the place.
    """

    def __init__(self, address: int, nbytes: int) -> None:
        self._address = address
        self._nbytes = nbytes
        self._taken: set[int] = set()
        self.used_bytes = 0

    def take(self, nbytes: int, alignment: int) -> int | None:
        """See `Source.take`."""
        start = align_up(self._address + self.used_bytes, max(alignment, _ALIGNMENT))
        end = start + nbytes - self._address
        if end > self._nbytes:
            return None
        self.used_bytes = end
        self._taken.add(start)
        return start

    def give(self, address: int) -> bool:
        """See `Source.give`."""
        if address not in self._taken:
            return False
        self._taken.remove(address)
        if not self._taken:
            self.used_bytes = 0
        return True


class Allocations:
    """Requests of a library, from any of its threads, to the source of the moment.

    Parameters
    ----------
    heap
        The source where no other was named.

    Attributes
    ----------
    refused
        The latest request that could not be met, in words; empty where all were.
    """

    def __init__(self, heap: Heap) -> None:
        self._source: Source = heap
        self._owners: dict[int, Source] = {}
        self._lock = threading.RLock()
        self._one_at_a_time = threading.Lock()
        self.refused = ""

    @contextmanager
    def into(self, source: Source) -> Iterator[None]:
        """Requests come from ``source`` while the block of the ``with`` runs; others wait."""
        with self._one_at_a_time:
            before, self._source = self._source, source
            self.refused = ""
            try:
                yield
            finally:
                self._source = before

    def allocate(self, nbytes: int, alignment: int) -> int | None:
        """An address, or None: libraries take that for out of memory."""
        with self._lock:
            address = self._source.take(max(nbytes, 1), alignment)
            if address is None:
                self.refused = f"{nbytes} bytes aligned to {alignment} do not fit"
                return None
            self._owners[address] = self._source
            return address

    def deallocate(self, address: int) -> bool:
        """Give memory back; whether it was known."""
        with self._lock:
            source = self._owners.pop(address, None)
            return source is not None and source.give(address)
