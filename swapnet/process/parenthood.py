"""A child that ends with its parent, however the parent ends."""

from __future__ import annotations

import ctypes
import os
import signal

__all__ = ["end_with_parent", "environment_of_child"]

_PARENT = "SWAPNET_PARENT"
"""Variable of the environment: number of the process that started this one."""

_PR_SET_PDEATHSIG = 1


def environment_of_child(parent: int | None = None) -> dict[str, str]:
    """Environment for a process that calls `end_with_parent`; its parent is this one by default."""
    return {**os.environ, _PARENT: str(parent or os.getpid())}


def end_with_parent() -> None:
    """Have the kernel kill this process when the thread that started it ends.

    Called in the child itself: code between fork and exec is not safe where the parent has threads.

    Raises
    ------
    EOFError
        The parent has gone already: the kernel tells nobody of that afterwards.
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != int(os.environ.get(_PARENT, os.getppid())):
        raise EOFError
