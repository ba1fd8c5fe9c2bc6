"""The kernel's memory limit and its accounting (cgroup v1 or v2)."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from contextlib import suppress
from pathlib import Path

from swapnet.errors import BackendUnavailableError, BudgetError
from swapnet.machine import CGROUP_V1, CGROUP_V2, DROP_CACHES, KERNEL_OPTIONS

__all__ = ["MemoryGroup", "check_available", "drop_page_cache", "is_available"]

_OF_SWAP = ("memory.memsw.limit_in_bytes", "memory.swap.max")
"""Limits that are missing where the kernel does not count swap."""

_SAMPLE_S = 0.005
"""Time between two samples of the memory in use, where the kernel records no peak."""


def check_available() -> None:
    """Raise where this process can't make groups with a memory limit.

    Raises
    ------
    BackendUnavailableError
        The kernel or the permissions refuse.
    """
    MemoryGroup(None).remove()


def is_available() -> bool:
    """Whether this process can make groups with a memory limit."""
    try:
        check_available()
    except BackendUnavailableError:
        return False
    return True


def drop_page_cache() -> None:
    """Write dirty pages and drop cached ones, so that reads are charged to their reader."""
    subprocess.run(["sync"], check=True)
    DROP_CACHES.write_text("3")


class MemoryGroup:
    """A group of processes: the kernel counts their memory, and limits it if asked.

    Parameters
    ----------
    limit_bytes
        The kernel kills a process that goes above; None only counts.

    Attributes
    ----------
    is_sampled
        The kernel records no peak (cgroup v2 before Linux 5.19): a thread samples the memory in use
        every few milliseconds, and can miss a short peak. A limit still holds.

    Raises
    ------
    BackendUnavailableError
        No permission, or no memory controller.
    """

    def __init__(self, limit_bytes: int | None) -> None:
        name = f"swapnet-{os.getpid()}-{time.monotonic_ns()}"
        try:
            if (CGROUP_V1 / "memory.limit_in_bytes").exists():
                self._group = CGROUP_V1 / name
                self._peak = self._group / "memory.max_usage_in_bytes"
                self._events = self._group / "memory.oom_control"
                self._limits = {
                    self._group / "memory.limit_in_bytes": (str(limit_bytes), "-1"),
                    self._group / "memory.memsw.limit_in_bytes": (str(limit_bytes), "-1"),
                }
            else:
                _pass_on_memory()
                self._group = CGROUP_V2 / name
                self._peak = self._group / "memory.peak"
                self._events = self._group / "memory.events"
                self._limits = {
                    self._group / "memory.swap.max": ("0", "max"),
                    self._group / "memory.max": (str(limit_bytes), "max"),
                }
            self._group.mkdir()
            try:
                if limit_bytes is not None:
                    self._write_limits(0)
            except OSError:
                self._group.rmdir()
                raise
        except OSError as error:
            raise _unavailable(str(error)) from error
        self._is_limited = limit_bytes is not None
        self.is_sampled = not self._peak.exists()
        self._sampled = _Sampled(self._group / "memory.current") if self.is_sampled else None

    @property
    def accounting(self) -> str:
        """Name of the way that the peak was measured."""
        found = "kernel limit" if self._is_limited else "kernel"
        return f"{found}, sampled" if self.is_sampled else found

    @property
    def processes_file(self) -> Path:
        """A process joins the group by writing its number here."""
        return self._group / "cgroup.procs"

    @property
    def peak_bytes(self) -> int:
        """Peak of the memory in use, by the kernel's count."""
        return self._sampled.peak_bytes if self._sampled else int(self._peak.read_text())

    @property
    def cached_bytes(self) -> int:
        """Page cache that is charged to the group."""
        try:
            lines = (self._group / "memory.stat").read_text().splitlines()
        except OSError:
            return 0
        found = dict(line.split() for line in lines)
        return int(found.get("cache", found.get("file", 0))) - int(found.get("shmem", 0))

    @property
    def has_killed(self) -> bool:
        """Whether the kernel has ended a process of the group for want of memory."""
        events = dict(line.split() for line in self._events.read_text().splitlines())
        return int(events.get("oom_kill", 0)) > 0

    def forget_peak(self) -> None:
        """Begin a new peak. With cgroup v2 the memory in use is sampled from here on."""
        if self._group.parent == CGROUP_V1:
            self._peak.write_text("0")
            return
        if self._sampled:
            self._sampled.stop()
        self.is_sampled, self._sampled = True, _Sampled(self._group / "memory.current")

    def lift(self) -> None:
        """Remove the limit: memory from here on is not the model's."""
        self._write_limits(1)

    def _write_limits(self, position: int) -> None:
        files = [path for path in self._limits if path.name not in _OF_SWAP or path.exists()]
        for path in reversed(files) if position else files:
            path.write_text(self._limits[path][position])

    def __enter__(self) -> MemoryGroup:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    def remove(self) -> None:
        """Remove the group once its processes are gone.

        Raises
        ------
        BudgetError
            The processes have not ended after 5 s.
        """
        if self._sampled:
            self._sampled.stop()
        for _ in range(100):
            try:
                self._group.rmdir()
                return
            except FileNotFoundError:
                return
            except OSError:
                time.sleep(0.05)
        raise BudgetError(
            f"the memory group {self._group} can't be removed",
            why="it still holds processes after 5 s",
            hint="end them, then remove the folder",
        )


class _Sampled:
    """The largest value seen in a file of the kernel; a thread reads it until it is stopped."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._most = 0
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    @property
    def peak_bytes(self) -> int:
        return max(self._most, self._now())

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join()

    def _watch(self) -> None:
        with suppress(OSError):
            while not self._stopped.wait(_SAMPLE_S):
                self._most = max(self._most, self._now())

    def _now(self) -> int:
        return int(self._file.read_text())


def _pass_on_memory() -> None:
    """Turn on the memory controller for groups of version 2."""
    if "memory" not in (CGROUP_V2 / "cgroup.controllers").read_text().split():
        raise OSError("no cgroup memory controller")
    children = CGROUP_V2 / "cgroup.subtree_control"
    if "memory" not in children.read_text().split():
        try:
            children.write_text("+memory")
        except OSError as error:
            why = f"{children} does not take +memory: {error.strerror}"
            raise OSError(why) from error


def _unavailable(why: str) -> BackendUnavailableError:
    cure = "run as root where cgroups have a memory controller"
    if _is_switched_off():
        why = f"{why}; the kernel was started with cgroup_disable=memory"
        cure = (
            "add cgroup_enable=memory to /boot/firmware/cmdline.txt and reboot (on other machines "
            "than a Raspberry Pi take cgroup_disable=memory out of the boot options)"
        )
    return BackendUnavailableError(
        "the kernel's memory limit is not available here",
        why=why,
        hint=f"{cure}, or leave --memory-limit out",
    )


def _is_switched_off() -> bool:
    """Whether boot options turn the memory controller off, as on Raspberry Pi OS."""
    words = KERNEL_OPTIONS.read_text().split() if KERNEL_OPTIONS.exists() else []
    options = [word.partition("=") for word in words]
    told = [name for name, _, value in options if "memory" in value.split(",")]
    return "cgroup_disable" in told and "cgroup_enable" not in told
