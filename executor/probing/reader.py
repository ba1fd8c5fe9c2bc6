"""Measure the bandwidth of storage through the executor's own reader."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from statistics import linear_regression

from swapnet.executor.planning.usage import READ_BYTES
from swapnet.executor.swapping.arena import Arena
from swapnet.executor.swapping.loading import READERS, Reader
from swapnet.manifest import EXTENT_ALIGNMENT, Extent
from swapnet.units import align_up

__all__ = ["BackgroundReader", "End", "Ring", "flow"]

End = tuple[float, int]
"""Time at which a request ended, in seconds, and the bytes of all requests until then."""


def flow(ends: Sequence[End]) -> float:
    """Bytes per second while requests follow each other; 0 for too few requests.

    The slope over the ends of requests does not depend on the requests in flight at the beginning
    and at the end, nor on requests that end at once.
    """
    times = [time for time, _ in ends]
    if len(times) < 3 or times[0] == times[-1]:
        return 0.0
    slope: float = linear_regression(times, [float(nbytes) for _, nbytes in ends]).slope
    return max(slope, 0.0)


_REQUESTS_PER_READER = 4
_RING_BYTES = 32 << 20

_MOST_S = 0.5
"""Longest measurement of `BackgroundReader.flow`."""


class Ring:
    """Memory for ``nbytes`` of requests in flight; large enough for huge pages, like a ring."""

    def __init__(self, nbytes: int) -> None:
        self._arena = Arena(max(nbytes, _RING_BYTES))
        self._next = 0

    def next(self, nbytes: int) -> memoryview:
        """The next place; it may be overwritten after all other places were given."""
        offset = self._next if self._next + nbytes <= self._arena.nbytes else 0
        self._next = offset + nbytes
        return self._arena.view(offset, nbytes)


class BackgroundReader:
    """Reads extents again and again into unused memory.

    Parameters
    ----------
    storage
        The weight file.
    extents
        Extents to read, in order; each in equal requests, like those of a plan.
    readers
        Number of requests in flight.
    read_bytes
        Approximate size of one request.
    """

    def __init__(
        self,
        storage: Reader,
        extents: Sequence[Extent],
        *,
        readers: int = READERS,
        read_bytes: int = READ_BYTES,
    ) -> None:
        self._storage = storage
        self._readers = readers
        self._pieces = [piece for extent in extents for piece in _pieces(extent, read_bytes)]
        self._ring = Ring(readers * max((nbytes for _, nbytes in self._pieces), default=0))
        self.total_bytes = sum(nbytes for _, nbytes in self._pieces)
        """Size of all extents together."""
        self.read_bytes = 0
        """Bytes read since the reader was made."""
        self.ends: list[End] = []
        """Ends of all requests since the latest beginning."""

    def once(self) -> float:
        """Read all extents once; the time in seconds."""
        start = time.perf_counter()
        self._run(iter(self._pieces))
        return time.perf_counter() - start

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Read in the background during the ``with`` statement."""
        stop = threading.Event()

        def endless() -> Iterator[tuple[int, int]]:
            while self._pieces and not stop.is_set():
                for piece in self._pieces:
                    if stop.is_set():
                        return
                    yield piece

        thread = threading.Thread(target=self._run, args=(endless(),), daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def flow(self, least_s: float) -> float:
        """Bytes per second, from several requests of each reader in at least ``least_s``."""
        start = time.perf_counter()
        with self.reading():
            while (elapsed := time.perf_counter() - start) < _MOST_S and self._pieces:
                if elapsed > least_s and len(self.ends) >= _REQUESTS_PER_READER * self._readers:
                    break
                time.sleep(1e-3)
            ends = self.ends[:]
        return flow(ends)

    def _run(self, pieces: Iterator[tuple[int, int]]) -> None:
        self.ends = []
        lock = threading.Lock()

        def work() -> None:
            while True:
                with lock:
                    piece = next(pieces, None)
                    if piece is None:
                        return
                    offset, nbytes = piece
                    view = self._ring.next(nbytes)
                self._storage.read_into(view, offset)
                with lock:
                    self.read_bytes += nbytes
                    done = self.ends[-1][1] if self.ends else 0
                    self.ends.append((time.perf_counter(), done + nbytes))

        threads = [threading.Thread(target=work) for _ in range(self._readers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


def _pieces(extent: Extent, read_bytes: int) -> Iterator[tuple[int, int]]:
    count = max(1, round(extent.file_nbytes / read_bytes))
    size = max(align_up(-(-extent.file_nbytes // count), EXTENT_ALIGNMENT), EXTENT_ALIGNMENT)
    for start in range(extent.offset, extent.end, size):
        yield start, min(size, extent.end - start)
