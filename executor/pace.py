"""Slow storage down, to measure how an engine runs with the storage of another device."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from swapnet.errors import InputError

__all__ = ["Pace"]


class Pace:
    """Bandwidth that all reads of a process share; safe to use from several threads.

    Requests are served one after the other, in the order in which they come, without bursts:
    unused time is lost.

    Parameters
    ----------
    bytes_per_s
        Bandwidth above 0; slower storage is not slowed down.

    Raises
    ------
    InputError
        The bandwidth is not above 0.
    """

    def __init__(self, bytes_per_s: float) -> None:
        if not bytes_per_s > 0:
            raise InputError(
                f"storage can't read {bytes_per_s:g} bytes a second",
                why="a pace must be above 0",
                hint="give a bandwidth such as Pace(400e6), or no pace",
            )
        self.bytes_per_s = bytes_per_s
        self._lock = threading.Lock()
        self._free_s = 0.0

    @contextmanager
    def request(self, nbytes: int) -> Iterator[None]:
        """Read ``nbytes`` in the ``with`` statement, which ends when this pace has brought them."""
        with self._lock:
            end_s = max(time.perf_counter(), self._free_s) + nbytes / self.bytes_per_s
            self._free_s = end_s
        yield
        time.sleep(max(end_s - time.perf_counter(), 0.0))
