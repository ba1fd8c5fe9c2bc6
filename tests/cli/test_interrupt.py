"""Ctrl-C during build and bench: status 130, nothing half-written, nothing left running."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.helpers.engines import BuildToy

pytestmark = pytest.mark.slow

Start = Callable[..., "subprocess.Popen[str]"]


def children(pid: int) -> set[int]:
    """Processes that descend from one, itself included."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text()
            except OSError:
                continue
            parents[int(entry.name)] = int(stat.rpartition(")")[2].split()[1])
    found = {pid}
    while more := {p for p, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def interrupt(process: subprocess.Popen[str]) -> tuple[int, str]:
    os.kill(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    return process.returncode, err


def test_build(start: Start, engine: BuildToy, tmp_path: Path) -> None:
    toy = engine("images")
    process = start("build", toy.model, "-o", tmp_path / "engine")
    assert process.stderr is not None
    while "optimise" not in process.stderr.readline():
        assert process.poll() is None
    status, err = interrupt(process)
    assert status == 130
    assert "Traceback" not in err
    assert not list(tmp_path.iterdir())


def test_bench(start: Start, engine: BuildToy) -> None:
    process = start("bench", engine("images").folder, "--budget", "100%", "--duration", 600)
    until = time.monotonic() + 60
    while len(children(process.pid)) < 3 and time.monotonic() < until:
        time.sleep(0.05)
    family = children(process.pid)
    status, err = interrupt(process)
    assert status == 130
    assert "Traceback" not in err
    assert not [pid for pid in family if Path(f"/proc/{pid}").exists()]
