"""Blocks measured in forks of one child: a child of its own imports for half a second each time.

What is measured is the same: a process that has not yet run any block. Whole tests of the real
child are in ``tests/executor/probing``, and every command that tests start as a child has its own.
"""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import msgspec

from swapnet.executor.probing import activations
from swapnet.executor.state import Cache
from swapnet.process.failure import Failed, ProcessDied, raised

__all__ = ["measure", "stop"]

_SERVER = """
import json, os, sys
from swapnet.executor.probing import worker
from swapnet.process.serve import Parent, serve
for line in sys.stdin:
    job, folder, answers = json.loads(line)
    child = os.fork()
    if not child:
        status = 1
        try:
            os.chdir(folder)
            with open(job, "rb") as lines, open(answers, "wb") as out:
                status = serve(worker.work, Parent(lines, out))
        finally:
            os._exit(status)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""

_one_at_a_time = threading.Lock()


def measure(
    folder: Path,
    shapes: Mapping[str, Sequence[int]] | None = None,
    cache: Cache | None = None,
) -> activations.Measurement:
    """As `swapnet.executor.probing.activations.measure`."""
    with _one_at_a_time, patch.object(activations, "ask", _ask):
        return activations.measure(folder, shapes, cache)


def stop() -> None:
    """End the child; the next measurement starts another."""
    if _server.cache_info().currsize:
        server = _server()
        _server.cache_clear()
        server.communicate()


@functools.cache
def _server() -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", _SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def _ask(module: str, job: msgspec.Struct, answer: Any, *, verb: str) -> Any:
    """As `swapnet.process.child.ask`, answered by a fork of the server."""
    del module
    server = _server()
    assert server.stdin is not None
    assert server.stdout is not None
    with tempfile.NamedTemporaryFile() as asked, tempfile.NamedTemporaryFile() as told:
        asked.write(msgspec.json.encode(job) + b"\n")
        asked.flush()
        request = msgspec.json.encode([asked.name, os.getcwd(), told.name]).decode()
        print(request, file=server.stdin, flush=True)
        status = int(server.stdout.readline())
        lines = told.read().splitlines()
    for line in lines:
        if b'"type":"Failed"' in line:
            raise raised(msgspec.json.decode(line, type=Failed))
        return msgspec.json.decode(line, type=answer)
    raise ProcessDied(f"the process that {verb} ended with status {status}", why="in a fork")
