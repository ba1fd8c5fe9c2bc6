"""Storage that is slower than this device's: another device's is tried out, not predicted."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["Pace"]


class Pace:
    """What all reads of a process may take together; safe to use from several threads.

    Requests are served in the order in which they come, one after the other and without bursts:
    what was not used is lost.

    Parameters
    ----------
    bytes_per_s
        Above 0; storage that is slower than that is not slowed down.
    """

    def __init__(self, bytes_per_s: float) -> None:
        self.bytes_per_s = bytes_per_s
        self._lock = threading.Lock()
        self._free_s = 0.0

    @contextmanager
    def request(self, nbytes: int) -> Iterator[None]:
        """Read so many bytes in the ``with`` statement; it ends when they would have been there."""
        with self._lock:
            end_s = max(time.perf_counter(), self._free_s) + nbytes / self.bytes_per_s
            self._free_s = end_s
        yield
        time.sleep(max(end_s - time.perf_counter(), 0.0))
