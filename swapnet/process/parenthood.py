"""A child that ends with its parent, however the parent ends."""

from __future__ import annotations

import ctypes
import os
import signal

__all__ = ["die_with_parent", "end_with_parent", "environment_of_child"]

_PARENT = "SWAPNET_PARENT"
"""Variable of the environment: number of the process that started this one."""

_PR_SET_PDEATHSIG = 1


def environment_of_child() -> dict[str, str]:
    """Environment for a process that calls `end_with_parent`."""
    return {**os.environ, _PARENT: str(os.getpid())}


def die_with_parent() -> None:
    """Have the kernel kill this process when the thread that started it ends."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def end_with_parent() -> None:
    """Have the kernel kill this process when the thread that started it ends.

    Raises
    ------
    EOFError
        The parent has gone already.
    """
    # In the child itself: code between fork and exec is not safe where the parent has threads.
    die_with_parent()
    if os.environ.get(_PARENT) not in (None, str(os.getppid())):
        raise EOFError
