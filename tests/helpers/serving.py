"""Child processes of ours in tests: served in this process, or replaced by a script."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from swapnet.process.serve import Parent, serve

__all__ = ["answers_of", "child_runs", "served"]


def served(work: Callable[[Parent], None], *messages: Any) -> tuple[int, bytes]:
    """Serve messages in this process; the status, and all that was answered."""
    lines = b"".join(msgspec.json.encode(message) + b"\n" for message in messages)
    answers = io.BytesIO()
    status = serve(work, Parent(io.BytesIO(lines), answers))
    return status, answers.getvalue()


def answers_of(work: Callable[[Parent], None], job: Any) -> tuple[int, list[Any]]:
    """Serve one job in this process; the status, and its answers."""
    status, said = served(work, job)
    return status, [msgspec.json.decode(line) for line in said.splitlines()]


def child_runs(monkeypatch: pytest.MonkeyPatch, code: str) -> list[list[str]]:
    """Have every child run this code in place of its module; the commands that were asked for."""
    popen, asked = subprocess.Popen, list[list[str]]()

    def start(command: list[str], **options: Any) -> subprocess.Popen[bytes]:
        asked.append(command)
        return popen([sys.executable, "-c", code], **options)

    monkeypatch.setattr(subprocess, "Popen", start)
    return asked
