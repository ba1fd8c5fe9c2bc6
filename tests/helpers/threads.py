"""Threads of tests: one that never ends fails its test, and hinders no other."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

__all__ = ["LIMIT_S", "ended", "started"]

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


def ended(work: Callable[[], Result]) -> Result:
    """Call something that must come to an end."""
    return started(work).result(LIMIT_S)
