"""Child processes of tests: who they are, and their ends."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.helpers.threads import LIMIT_S, ended, until

__all__ = ["all_ended", "family", "interrupt", "interruptible", "wait_for_line"]


def family(pid: int) -> set[int]:
    """Processes that run and descend from one, itself included."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (parent := _parent(int(entry.name))) is not None:
            parents[int(entry.name)] = parent
    found = {pid}
    while more := {p for p, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def all_ended(pids: Iterable[int]) -> None:
    """Wait for the ends of processes; one that goes on fails the test."""
    until(lambda: all(_parent(pid) is None for pid in pids))


def interrupt(process: subprocess.Popen[str], number: int = signal.SIGINT) -> tuple[int, str]:
    """Send a signal to a process alone; its exit status, and what it wrote to standard error."""
    os.kill(process.pid, number)
    _, err = process.communicate(timeout=LIMIT_S)
    return process.returncode, err


@contextmanager
def interruptible() -> Iterator[None]:
    """Children that are started end by signals, whatever this process was told to ignore.

    A shell without job control has its background jobs ignore Ctrl-C, and nohup a terminal's end.
    """
    handlers: dict[int, Any] = {
        signal.SIGINT: signal.default_int_handler,
        signal.SIGHUP: signal.SIG_DFL,
    }
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def wait_for_line(process: subprocess.Popen[str], text: str) -> None:
    """Read standard error to a line with a text; the end of it before that fails the test."""
    stream = process.stderr
    assert stream is not None
    assert ended(lambda: any(text in line for line in iter(stream.readline, "")))


def _parent(pid: int) -> int | None:
    """The parent of a process; None where it has ended, whether or not anybody asked how."""
    try:
        state, parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:2]
    except OSError:
        return None
    return None if state in "ZX" else int(parent)
