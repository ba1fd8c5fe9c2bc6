"""Bandwidth of storage through the executor's own reader."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from swapnet.executor.arena import Arena
from swapnet.executor.memory import READ_BYTES
from swapnet.executor.pipeline import READERS, Reader
from swapnet.manifest import Extent

__all__ = ["BackgroundReader"]


class BackgroundReader:
    """Reads extents over and over into memory that nobody looks at.

    Parameters
    ----------
    storage
        The weight file.
    extents
        What to read, in order.
    readers
        Requests in flight.
    read_bytes
        Size of one request.
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
        self._arena = Arena(readers * read_bytes)
        self._read_bytes = read_bytes
        self._pieces = [
            (start, min(read_bytes, extent.end - start))
            for extent in extents
            for start in range(extent.offset, extent.end, read_bytes)
        ]
        self.total_bytes = sum(nbytes for _, nbytes in self._pieces)
        """Of all extents, once."""
        self.read_bytes = 0
        """Since the reader was made."""

    def once(self) -> float:
        """Read everything once; seconds taken."""
        start = time.perf_counter()
        self._run(iter(self._pieces))
        return time.perf_counter() - start

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Read in the background while the block of the ``with`` statement runs."""
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

    def _run(self, pieces: Iterator[tuple[int, int]]) -> None:
        lock = threading.Lock()

        def work(slot: int) -> None:
            while True:
                with lock:
                    piece = next(pieces, None)
                if piece is None:
                    return
                offset, nbytes = piece
                view = self._arena.view(slot * self._read_bytes, nbytes)
                self._storage.read_into(view, offset)
                with lock:
                    self.read_bytes += nbytes

        threads = [threading.Thread(target=work, args=(i,)) for i in range(self._readers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
