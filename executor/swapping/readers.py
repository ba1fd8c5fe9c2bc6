"""The threads that read from storage, for one pipeline or for many."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from queue import SimpleQueue
from typing import Any

__all__ = ["Channel", "Workers"]

_ENDING_S = 1.0
"""Time for threads to end that are closed; one that storage does not answer is left behind."""


class Workers:
    """Threads that call functions, like `ThreadPoolExecutor`, but a process may end without them.

    Parameters
    ----------
    count
        Upper limit of the threads; they start when there is work.
    name
        Begin of their names.
    """

    def __init__(self, count: int, name: str) -> None:
        self._count = count
        self._name = name
        self._threads: list[threading.Thread] = []
        self._idle = threading.Semaphore(0)
        self._work: SimpleQueue[Callable[[], None] | None] = SimpleQueue()

    def submit(self, work: Callable[[], Any]) -> Future[Any]:
        """Call a function; in the order of submission where all threads are busy."""
        future: Future[Any] = Future()
        self._call(partial(_settle, future, work))
        return future

    def _call(self, work: Callable[[], None]) -> None:
        self._work.put(work)
        if len(self._threads) < self._count and not self._idle.acquire(blocking=False):
            self._start()

    def _start(self) -> None:
        name = f"{self._name}-{len(self._threads)}"
        self._threads.append(threading.Thread(target=self._run, name=name, daemon=True))
        self._threads[-1].start()

    def close(self) -> None:
        """Stop the threads and wait for those that end. Safe to call twice."""
        for _ in self._threads:
            self._work.put(None)
        _join(self._threads)
        self._threads = []

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            work()
            del work
            self._idle.release()


class Channel(Workers):
    """Threads that read, and the lock of those who decide what.

    Parameters
    ----------
    readers
        Number of requests in flight.

    Attributes
    ----------
    lock
        May be taken again by the thread that holds it.
    """

    def __init__(self, readers: int) -> None:
        super().__init__(readers, "swapnet-reader")
        self.lock = threading.RLock()
        self._reading_since: dict[threading.Thread, float] = {}
        for _ in range(readers):
            self._start()

    def put(self, read: Callable[[], None]) -> None:
        """Have a read done, which raises nothing, in the order of these calls."""
        self._call(partial(self._read, read))

    def busy_since(self) -> float | None:
        """Time at which the last free thread began to read; None where one is free.

        Called with the lock held.
        """
        is_busy = len(self._reading_since) == self._count
        return max(self._reading_since.values()) if is_busy else None

    def reader_here(self) -> int:
        """Number of the reader whose thread is the calling one."""
        return self._threads.index(threading.current_thread())

    def _read(self, read: Callable[[], None]) -> None:
        here = threading.current_thread()
        with self.lock:
            self._reading_since[here] = time.perf_counter()
        read()
        with self.lock:
            del self._reading_since[here]


def _settle(future: Future[Any], work: Callable[[], Any]) -> None:
    if future.set_running_or_notify_cancel():
        try:
            result = work()
        except BaseException as error:
            future.set_exception(error)
        else:
            future.set_result(result)


def _join(threads: list[threading.Thread]) -> None:
    end = time.monotonic() + _ENDING_S
    for thread in threads:
        thread.join(max(end - time.monotonic(), 0))
