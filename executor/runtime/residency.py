"""Whole models, loaded and unloaded by count: what a server without a planner does.

The least recently used ones leave when another is asked for and there is no room. Kept for
comparison, and fair to it: sessions stay, only weights go; a model larger than all the memory is
swapped in all of it.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["Residency"]


class Residency:
    """Which models are in memory.

    Parameters
    ----------
    available_bytes
        For the weights of all.
    """

    def __init__(self, available_bytes: int) -> None:
        self._available = available_bytes
        self._changed = threading.Condition()
        self._loaded: dict[str, tuple[int, Callable[[], None]]] = {}
        """Bytes, and how to evict; the least recently used first."""
        self._held: set[str] = set()
        self._waiting: deque[str] = deque()
        """In the order of asking: who is always in memory can't keep others out."""

    @contextmanager
    def hold(self, name: str, nbytes: int, evict: Callable[[], None]) -> Iterator[bool]:
        """Room for one model's weights while it is used; it stays until others need the room.

        Parameters
        ----------
        name
            Of the model; used by one thread at a time.
        nbytes
            Of its weights in memory.
        evict
            Gives them back.

        Yields
        ------
        bool
            Whether it is not there yet.
        """
        with self._changed:
            self._waiting.append(name)
            try:
                while self._waiting[0] != name or not self._make_room(name, nbytes):
                    self._changed.wait()
            finally:
                self._waiting.remove(name)
                self._changed.notify_all()
            is_new = self._loaded.pop(name, None) is None
            self._loaded[name] = (nbytes, evict)
            self._held.add(name)
        try:
            yield is_new
        finally:
            with self._changed:
                self._held.discard(name)
                self._shrink()

    def forget(self, name: str) -> None:
        """A model is gone."""
        with self._changed:
            self._loaded.pop(name, None)
            self._changed.notify_all()

    def leave(self, name: str) -> None:
        """Evict a model that is idle; nothing where it is not in memory."""
        with self._changed:
            if name in self._loaded:
                self._loaded[name][1]()
                del self._loaded[name]
                self._changed.notify_all()

    def resize(self, available_bytes: int) -> None:
        """There is another amount of memory from now on; what does not fit leaves when idle."""
        with self._changed:
            self._available = available_bytes
            self._shrink()

    def _make_room(self, name: str, nbytes: int) -> bool:
        while name not in self._loaded and not self._has_room(nbytes):
            if not self._evict():
                return False
        return True

    def _shrink(self) -> None:
        while not self._has_room(0) and self._evict():
            pass
        self._changed.notify_all()

    def _evict(self) -> bool:
        """The least recently used one that is idle, if there is one."""
        victim = next((name for name in self._loaded if name not in self._held), None)
        if victim is not None:
            self._loaded.pop(victim)[1]()
        return victim is not None

    def _has_room(self, nbytes: int) -> bool:
        return sum(size for size, _ in self._loaded.values()) + nbytes <= self._available
