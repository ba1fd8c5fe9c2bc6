"""The threads that read from storage, for one pipeline or for many: the most urgent read first."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, Protocol

__all__ = ["Channel", "Rank", "Source", "Workers"]

_ENDING_S = 1.0
"""Time for threads to end that are closed; one that storage does not answer is left behind."""

Rank = tuple[float, ...]
"""Urgency of a read: smaller comes first."""


class Source(Protocol):
    """Source of reads; called with the channel's lock held."""

    def rank(self) -> Rank | None:
        """Rank of the next read; None where nothing may be read now."""

    def claim(self) -> Callable[[], None]:
        """Take the next read: a function that does it, to be called without the lock."""


class Channel:
    """Reads for all sources that are attached to it.

    Parameters
    ----------
    readers
        Number of requests in flight, for all sources together.

    Attributes
    ----------
    changed
        Guards the sources, and is notified when one of them may have become readable.
    """

    def __init__(self, readers: int) -> None:
        self.changed = threading.Condition()
        self._sources: list[Source] = []
        self._reading_since: dict[threading.Thread, float] = {}
        self._closed = False
        self._threads = [
            threading.Thread(target=self._work, name=f"swapnet-reader-{i}", daemon=True)
            for i in range(readers)
        ]
        for thread in self._threads:
            thread.start()

    def attach(self, source: Source) -> None:
        """Read for ``source`` from now on."""
        with self.changed:
            self._sources.append(source)
            self.changed.notify_all()

    def detach(self, source: Source) -> None:
        """Claim no read of ``source`` any more; those in flight go on."""
        with self.changed:
            self._sources.remove(source)

    def busy_since(self) -> float | None:
        """Time at which the last free thread began to read; None where one is free.

        Called with the lock held.
        """
        is_busy = len(self._reading_since) == len(self._threads)
        return max(self._reading_since.values()) if is_busy else None

    def reader_here(self) -> int:
        """Number of the reader whose thread is the calling one."""
        return self._threads.index(threading.current_thread())

    def close(self) -> None:
        """Stop the threads and wait for those that end. Safe to call twice."""
        with self.changed:
            self._closed = True
            self.changed.notify_all()
        _join(self._threads)

    def _work(self) -> None:
        while (read := self._next()) is not None:
            read()

    def _next(self) -> Callable[[], None] | None:
        here = threading.current_thread()
        with self.changed:
            self._reading_since.pop(here, None)
            while not self._closed:
                ranked = [(rank, s) for s in self._sources if (rank := s.rank()) is not None]
                if ranked:
                    self._reading_since[here] = time.perf_counter()
                    return min(ranked, key=lambda entry: entry[0])[1].claim()
                self.changed.wait()
        return None


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
        self._work: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()

    def submit(self, work: Callable[[], Any]) -> Future[Any]:
        """Call a function; in the order of submission where all threads are busy."""
        future: Future[Any] = Future()
        self._work.put((future, work))
        if not self._idle.acquire(blocking=False) and len(self._threads) < self._count:
            name = f"{self._name}-{len(self._threads)}"
            self._threads.append(threading.Thread(target=self._run, name=name, daemon=True))
            self._threads[-1].start()
        return future

    def close(self) -> None:
        """Stop the threads and wait for those that end. Safe to call twice."""
        for _ in self._threads:
            self._work.put(None)
        _join(self._threads)
        self._threads = []

    def _run(self) -> None:
        while (item := self._work.get()) is not None:
            future, work = item
            if future.set_running_or_notify_cancel():
                try:
                    result = work()
                except BaseException as error:
                    future.set_exception(error)
                else:
                    future.set_result(result)
            del item, future, work
            self._idle.release()


def _join(threads: list[threading.Thread]) -> None:
    end = time.monotonic() + _ENDING_S
    for thread in threads:
        thread.join(max(end - time.monotonic(), 0))
