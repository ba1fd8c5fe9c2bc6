"""Threads of tests: one that never ends fails its test, and hinders no other."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

__all__ = ["LIMIT_S", "ended", "started", "until"]

LIMIT_S = 60.0
"""What takes longer has deadlocked."""

Result = TypeVar("Result")


def started(work: Callable[[], Result]) -> Future[Result]:
    """Call something in a thread of its own."""
    future: Future[Result] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


def until(condition: Callable[[], bool]) -> None:
    """Wait for what others do; a condition that stays false fails the test."""
    end = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < end, f"did not happen within {LIMIT_S:.0f} s"
        time.sleep(0.001)


def ended(work: Callable[[], Result]) -> Result:
    """Call something that must come to an end."""
    return started(work).result(LIMIT_S)
