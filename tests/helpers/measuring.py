"""Blocks measured in forks of one child: a child of its own imports for half a second each time.

What is measured is the same: a process that has not yet run any block. Whole tests of the real
child are in ``tests/executor/probing``, and every command that tests start as a child has its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

from swapnet.executor.probing import activations

__all__ = ["measure", "stop"]

_SERVER = """
import ctypes, json, os, sys
from swapnet.executor.probing import activations
ctypes.CDLL(None).prctl(41, 1, 0, 0, 0)
for line in sys.stdin:
    arguments, folder, out, err = json.loads(line)
    child = os.fork()
    if not child:
        status = 1
        try:
            os.chdir(folder)
            for path, to in (out, 1), (err, 2):
                os.dup2(os.open(path, os.O_WRONLY), to)
            status = activations.main(*arguments)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
"""The `prctl` is that of the module's own command line."""

_one_at_a_time = threading.Lock()


def measure(
    folder: Path, shapes: Mapping[str, Sequence[int]] | None = None
) -> activations.Measurement:
    """As `swapnet.executor.probing.activations.measure`."""
    with _one_at_a_time, patch.object(activations, "subprocess", SimpleNamespace(run=_run)):
        return activations.measure(folder, shapes)


def stop() -> None:
    """End the child; the next measurement starts another."""
    if _server.cache_info().currsize:
        server = _server()
        _server.cache_clear()
        server.communicate()


@cache
def _server() -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", _SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def _run(command: Sequence[str], **_: Any) -> subprocess.CompletedProcess[str]:
    """``python -m swapnet.executor.probing.activations`` with arguments."""
    server = _server()
    assert server.stdin is not None
    assert server.stdout is not None
    with tempfile.NamedTemporaryFile("r") as out, tempfile.NamedTemporaryFile("r") as err:
        asked = json.dumps([command[3:], os.getcwd(), out.name, err.name])
        print(asked, file=server.stdin, flush=True)
        status = int(server.stdout.readline())
        return subprocess.CompletedProcess(command, status, out.read(), err.read())
