"""The compute side: how many threads, and whose."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from enum import Enum

from swapnet.fingerprint import cpu_fingerprint

__all__ = ["Device", "ThreadPool", "available_processors"]


class ThreadPool(str, Enum):
    """Whose threads compute.

    ``SESSION``: each session has its own pool, not spinning. ``GLOBAL``: one pool for the
    process (ONNX Runtime's ``set_global_thread_pool_sizes``); only for a process of our own, for
    every ordinary session in it fails afterwards.
    """

    SESSION = "session"
    GLOBAL = "global"


def available_processors() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0))


@dataclass(frozen=True)
class Device:
    """Where blocks execute.

    Attributes
    ----------
    threads
        Compute threads; by default all processors that the process may use.
    pool
        Whose they are.
    """

    threads: int = field(default_factory=available_processors)
    pool: ThreadPool = ThreadPool.SESSION

    @property
    def fingerprint(self) -> str:
        """What delays were measured on: the key of a profile."""
        return f"{cpu_fingerprint()}/{self.threads} threads"
