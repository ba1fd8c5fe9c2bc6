"""Planning beside inferences: those want the interpreter for microseconds, hundreds of times each.

A thread that computes in Python keeps the interpreter for 5 ms whenever another one asks for it.
While plans are searched that would add as much to every call of an inference.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["giving_way"]

_INTERVAL_S = 1e-4

_lock = threading.Lock()
_before_s: list[float] = []
"""Intervals that were in force when each of those that give way now began."""


@contextmanager
def giving_way() -> Iterator[None]:
    """Let other threads have the interpreter within 0.1 ms; may be nested and overlap."""
    with _lock:
        _before_s.append(sys.getswitchinterval())
        sys.setswitchinterval(min(_INTERVAL_S, _before_s[0]))
    try:
        yield
    finally:
        with _lock:
            last_s = _before_s.pop()
            if not _before_s:
                sys.setswitchinterval(last_s)


def _forget_others() -> None:
    """In a forked child: those that gave way, or held the lock, are not there."""
    global _lock
    _lock = threading.Lock()
    if _before_s:
        sys.setswitchinterval(_before_s[0])
        _before_s.clear()


os.register_at_fork(after_in_child=_forget_others)
