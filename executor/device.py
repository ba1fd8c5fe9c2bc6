"""The compute side: how many threads, and whose."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field
from enum import Enum
from functools import cache

from swapnet.executor.pace import Pace
from swapnet.fingerprint import cpu_fingerprint
from swapnet.machine import processor_name
from swapnet.profile import Profile, with_storage

__all__ = ["Device", "ThreadPool", "available_processors", "runtime_version"]


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


@cache
def runtime_version() -> str:
    """Of ONNX Runtime; empty where it is not here.

    Where it is not loaded yet its package is asked: for a plan it is not needed. Where it is, that
    would cost the executing process 3 MiB.
    """
    if loaded := sys.modules.get("onnxruntime"):
        return str(loaded.__version__)
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("onnxruntime")
    except PackageNotFoundError:
        try:
            import onnxruntime
        except ImportError:
            return ""
        return str(onnxruntime.__version__)


@dataclass(frozen=True)
class Device:
    """Where blocks execute.

    Attributes
    ----------
    threads
        Compute threads; by default all processors that the process may use.
    pool
        Whose they are.
    gpu
        What a GPU says of itself, where blocks execute on one; empty elsewhere.
    gpu_index, gpu_memory
        Which GPU, and where weights lie on it (`swapnet.executor.gpu.accelerator.choose_memory`).
    pace
        Slows storage down, to try what another device's would do; None leaves it as it is.
    """

    threads: int = field(default_factory=available_processors)
    pool: ThreadPool = ThreadPool.SESSION
    gpu: str = ""
    gpu_index: int = 0
    gpu_memory: str = "auto"
    pace: Pace | None = None

    @property
    def fingerprint(self) -> str:
        """What delays were measured on: the key of a profile."""
        parts = (
            cpu_fingerprint(),
            processor_name(),
            f"onnxruntime {runtime_version()}" if runtime_version() else "",
            f"{self.threads} threads",
            self.gpu,
        )
        return "/".join(filter(None, parts))

    def paced(self, profile: Profile) -> Profile:
        """Delays that were measured without the pace, as they are with it."""
        if self.pace is None:
            return profile
        storage, pace = profile.storage, self.pace.bytes_per_s
        return with_storage(
            profile,
            bytes_per_s=min(storage.bytes_per_s, pace),
            busy_bytes_per_s=min(storage.busy_bytes_per_s, pace),
        )
