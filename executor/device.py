"""Where blocks are executed: compute threads and the pool that they belong to, or a GPU."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field
from enum import Enum
from functools import cache

from swapnet.errors import InputError
from swapnet.executor.pace import Pace
from swapnet.fingerprint import cpu_fingerprint
from swapnet.machine import processor_name
from swapnet.profile import Profile, with_storage

__all__ = ["Device", "ThreadPool", "available_processors", "runtime_version"]


class ThreadPool(str, Enum):
    """The pool that compute threads belong to.

    ``SESSION``: each session has its own pool, not spinning. ``GLOBAL``: one pool for the process
    (ONNX Runtime's ``set_global_thread_pool_sizes``). Only a process of our own can use it: every
    ordinary session in that process fails afterwards.
    """

    SESSION = "session"
    GLOBAL = "global"


def available_processors() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0))


@cache
def runtime_version() -> str:
    """Version of ONNX Runtime; empty where it is not installed.

    Planning does not need ONNX Runtime, so the metadata of its package are read where it is not
    loaded. The loaded module is asked in an executing process: metadata would take 3 MiB of it.
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
        Number of compute threads; by default all processors that the process may use.
    pool
        The pool that they belong to.
    gpu
        Description of the GPU that executes; empty on the CPU.
    gpu_index, gpu_memory
        Number of the GPU, and the memory that weights lie in
        (`swapnet.executor.gpu.accelerator.choose_memory`).
    pace
        Slows storage down, to try another device's; None leaves it as it is.

    Raises
    ------
    InputError
        The number of threads is below 1.
    """

    threads: int = field(default_factory=available_processors)
    pool: ThreadPool = ThreadPool.SESSION
    gpu: str = ""
    gpu_index: int = 0
    gpu_memory: str = "auto"
    pace: Pace | None = None

    def __post_init__(self) -> None:
        if self.threads < 1:
            raise InputError(
                f"{self.threads} threads can't compute",
                why=f"1 is the least, this process may use {available_processors()}",
                hint="leave the number out to use all processors",
            )

    @property
    def fingerprint(self) -> str:
        """Description of the hardware and the runtime library: the key of a profile."""
        parts = (
            cpu_fingerprint(),
            processor_name(),
            f"onnxruntime {runtime_version()}" if runtime_version() else "",
            f"{self.threads} threads",
            self.gpu,
        )
        return "/".join(filter(None, parts))

    def paced(self, profile: Profile) -> Profile:
        """A profile that was measured without the pace, corrected for it."""
        if self.pace is None:
            return profile
        storage, pace = profile.storage, self.pace.bytes_per_s
        return with_storage(
            profile,
            bytes_per_s=min(storage.bytes_per_s, pace),
            busy_bytes_per_s=min(storage.busy_bytes_per_s, pace),
        )
