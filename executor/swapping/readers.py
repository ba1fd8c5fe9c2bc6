"""The threads that read from storage, for one pipeline or for many: the most urgent read first."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Protocol

__all__ = ["Channel", "Rank", "Source"]

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

    def close(self) -> None:
        """Stop the threads and wait for them. Safe to call twice."""
        with self.changed:
            self._closed = True
            self.changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while (read := self._next()) is not None:
            read()

    def _next(self) -> Callable[[], None] | None:
        with self.changed:
            while not self._closed:
                ranked = [(rank, s) for s in self._sources if (rank := s.rank()) is not None]
                if ranked:
                    return min(ranked, key=lambda entry: entry[0])[1].claim()
                self.changed.wait()
        return None
