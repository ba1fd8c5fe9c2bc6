"""Folders that behave as the kernel's control groups of the second version do."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path, PosixPath
from typing import Any

import pytest

__all__ = ["stand_in"]

_FILES = {
    "cgroup.procs": "",
    "memory.current": "4096",
    "memory.max": "max",
    "memory.swap.max": "max",
    "memory.peak": "8192",
    "memory.stat": "anon 5\nfile 4096\nshmem 1024\n",
}


class _Folder(PosixPath):
    """New groups have the files of the controllers that their parent passes on."""

    def mkdir(self, *_: Any, **__: Any) -> None:
        super().mkdir()
        if "memory" in (self.parent / "cgroup.subtree_control").read_text().split():
            missing = (self.parent / "missing").read_text().split()
            for name in _FILES.keys() - missing:
                Path(self, name).write_text(_FILES[name])

    def rmdir(self) -> None:
        shutil.rmtree(self)

    def write_text(self, data: str, *_: Any, **__: Any) -> int:
        if not self.exists():
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", str(self))
        if self.name != "cgroup.subtree_control":
            return int(super().write_text(data))
        if "busy" in (self.parent / "missing").read_text().split():
            raise OSError(errno.EBUSY, "Device or resource busy", str(self))
        return int(super().write_text(f"{self.read_text()} {data.removeprefix('+')}"))


def stand_in(
    monkeypatch: pytest.MonkeyPatch,
    folder: Path,
    *,
    controllers: str = "cpu memory pids",
    passed_on: str = "cpu memory",
    missing: str = "",
    options: str = "",
) -> Path:
    """Put a folder in the kernel's place.

    Parameters
    ----------
    folder
        An empty one.
    controllers, passed_on
        All that there are, and those that groups below have.
    missing
        Files that this kernel does not have; ``busy`` has it pass on no more.
    options
        What the kernel was started with.
    """
    contents = {
        "cgroup.controllers": controllers,
        "cgroup.subtree_control": passed_on,
        "missing": missing,
        "cmdline": options,
    }
    for name, text in contents.items():
        (folder / name).write_text(text)
    monkeypatch.setattr("swapnet.process.cgroup.CGROUP_V1", folder / "none")
    monkeypatch.setattr("swapnet.process.cgroup.CGROUP_V2", _Folder(folder))
    monkeypatch.setattr("swapnet.process.cgroup.KERNEL_OPTIONS", folder / "cmdline")
    return folder
