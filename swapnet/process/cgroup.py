"""The kernel's memory limit and its accounting (cgroup v1 or v2)."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path
from types import TracebackType

from swapnet.errors import BackendUnavailableError, BudgetError

__all__ = ["MemoryGroup", "drop_page_cache", "is_available"]

_V1 = Path("/sys/fs/cgroup/memory")
_V2 = Path("/sys/fs/cgroup")


def is_available() -> bool:
    """Whether this process may make groups with a memory limit."""
    try:
        with MemoryGroup(None):
            return True
    except BackendUnavailableError:
        return False


def drop_page_cache() -> None:
    """Write dirty pages and forget cached ones, so that reads are charged to who reads."""
    subprocess.run(["sync"], check=True)
    Path("/proc/sys/vm/drop_caches").write_text("3")


class MemoryGroup:
    """A group of processes whose memory the kernel counts, and limits if asked.

    Parameters
    ----------
    limit_bytes
        The kernel kills a process that goes above; None only counts.

    Raises
    ------
    BackendUnavailableError
        No permission, or no memory controller.
    """

    def __init__(self, limit_bytes: int | None) -> None:
        name = f"swapnet-{os.getpid()}-{time.monotonic_ns()}"
        try:
            if (_V1 / "memory.limit_in_bytes").exists():
                self._group = _V1 / name
                self._peak = self._group / "memory.max_usage_in_bytes"
                self._limits = {
                    self._group / "memory.limit_in_bytes": (str(limit_bytes), "-1"),
                    self._group / "memory.memsw.limit_in_bytes": (str(limit_bytes), "-1"),
                }
            elif "memory" in (_V2 / "cgroup.controllers").read_text().split():
                self._group = _V2 / name
                self._peak = self._group / "memory.peak"
                self._limits = {
                    self._group / "memory.swap.max": ("0", "max"),
                    self._group / "memory.max": (str(limit_bytes), "max"),
                }
            else:
                raise OSError("no cgroup memory controller")
            self._group.mkdir()
            if limit_bytes is not None:
                self._write_limits(0)
        except OSError as error:
            raise BackendUnavailableError(
                "the kernel's memory limit is not to be had here",
                why=str(error),
                hint="run as root where cgroups have a memory controller, or leave "
                "--memory-limit out",
            ) from error

    @property
    def processes_file(self) -> Path:
        """A process joins the group by writing its number here."""
        return self._group / "cgroup.procs"

    @property
    def peak_bytes(self) -> int:
        """The most that was in use at once, by the kernel's count."""
        return int(self._peak.read_text())

    def lift(self) -> None:
        """Take the limit away: what follows is not the model's."""
        self._write_limits(1)

    def _write_limits(self, position: int) -> None:
        files = [path for path in self._limits if path.exists()]
        for path in reversed(files) if position else files:
            path.write_text(self._limits[path][position])

    def __enter__(self) -> MemoryGroup:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.remove()

    def remove(self) -> None:
        """Remove the group once its processes are gone.

        Raises
        ------
        BudgetError
            They do not go.
        """
        for _ in range(100):
            try:
                self._group.rmdir()
                return
            except FileNotFoundError:
                return
            except OSError:
                time.sleep(0.05)
        raise BudgetError(f"{self._group} still holds processes")
