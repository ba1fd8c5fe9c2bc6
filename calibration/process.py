"""A process that does one job, as its parent sees it: a job in, lines of JSON out."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from typing import IO, Any, TypeVar

import msgspec

from swapnet.calibration.failure import Failed, raised
from swapnet.errors import BackendError, BudgetError, SwapnetError
from swapnet.executor.bench.cgroup import MemoryGroup
from swapnet.units import format_size

__all__ = ["ask"]

T = TypeVar("T")


def ask(
    module: str,
    job: msgspec.Struct,
    answers: Any,
    hear: Callable[[Any], T | None],
    *,
    verb: str,
    group: MemoryGroup | None = None,
    limit_bytes: int | None = None,
) -> T:
    """Run a job in a process of its own; the process ends with this call, whatever happens.

    Parameters
    ----------
    module
        What the process runs.
    job
        Its first line of standard input, as JSON.
    answers
        Union of what it says, one in a line, `Failed` among them.
    hear
        Told of each answer but that; what it returns ends the call, unless that is None.
    verb
        What the process does, for messages.
    group
        Where the kernel counts, and perhaps limits, its memory.
    limit_bytes
        The group's limit, for the message when the kernel kills the process.

    Raises
    ------
    SwapnetError
        Whatever the process raised.
    BudgetError
        The kernel killed it for memory.
    BackendError
        It died of something else.
    """
    command = [sys.executable, "-m", module]
    if group is not None:
        join = f'echo $$ > "{group.processes_file}"; exec "$@"'
        command = ["sh", "-c", join, "sh", *command]
    # A pipe that nobody reads would stop a child that says much.
    with tempfile.TemporaryFile(mode="w+") as said:
        child = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=said,
            text=True,
            start_new_session=True,
        )
        try:
            found = _listen(child, job, msgspec.json.Decoder(answers), hear)
            if found is None:
                raise _death(child, said, verb, limit_bytes)
            return found
        finally:
            if child.poll() is None:
                child.kill()
            child.communicate()


def _listen(
    child: subprocess.Popen[str],
    job: msgspec.Struct,
    decoder: msgspec.json.Decoder[Any],
    hear: Callable[[Any], T | None],
) -> T | None:
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        child.stdin.write(msgspec.json.encode(job).decode() + "\n")
        child.stdin.flush()
    except BrokenPipeError:
        return None
    for line in child.stdout:
        answer = decoder.decode(line)
        if isinstance(answer, Failed):
            raise raised(answer)
        if (found := hear(answer)) is not None:
            return found
    return None


def _death(
    child: subprocess.Popen[str], said: IO[str], verb: str, limit_bytes: int | None
) -> SwapnetError:
    child.communicate()
    status = child.returncode
    if status in (-signal.SIGKILL, 128 + signal.SIGKILL) and limit_bytes is not None:
        return BudgetError(
            f"the process that {verb} was killed by the kernel",
            why=f"it went above the limit of {limit_bytes} bytes ({format_size(limit_bytes)})",
            hint="give a larger budget, and report it: a budget should hold",
        )
    said.seek(0)
    lines = said.read().strip().splitlines()
    return BackendError(
        f"the process that {verb} ended with status {status}",
        why=lines[-1] if lines else "it said nothing",
        hint="run it again; if it stays, report it with this message",
    )
