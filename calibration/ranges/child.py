"""The observing process as its parent sees it."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
from typing import IO

import msgspec

from swapnet import errors
from swapnet.calibration.ranges.collect import Extreme
from swapnet.calibration.ranges.worker import Answer, Failed, Found, Job, Ran
from swapnet.errors import BackendError, BudgetError, SwapnetError
from swapnet.executor.bench.cgroup import MemoryGroup
from swapnet.progress import Progress
from swapnet.units import format_size

__all__ = ["observe_in_child"]


def observe_in_child(
    job: Job,
    progress: Progress,
    *,
    group: MemoryGroup | None = None,
    limit_bytes: int | None = None,
) -> dict[str, Extreme]:
    """Run a job in a process of its own; the process ends with this call, whatever happens.

    Parameters
    ----------
    job
        What is observed.
    progress
        Told of each sample.
    group
        Where the kernel counts, and perhaps limits, its memory.
    limit_bytes
        The group's limit, for the message when the kernel kills the process.

    Raises
    ------
    SwapnetError
        Whatever the child raised.
    BudgetError
        The kernel killed it for memory.
    BackendError
        It died of something else.
    """
    command = [sys.executable, "-m", "swapnet.calibration.ranges.worker"]
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
            found = _listen(child, job, progress)
            if found is None:
                raise _death(child, said, limit_bytes)
            return found
        finally:
            if child.poll() is None:
                child.kill()
            child.communicate()


def _listen(
    child: subprocess.Popen[str], job: Job, progress: Progress
) -> dict[str, Extreme] | None:
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        child.stdin.write(msgspec.json.encode(job).decode() + "\n")
        child.stdin.flush()
    except BrokenPipeError:
        return None
    decoder = msgspec.json.Decoder(Answer)
    for line in child.stdout:
        answer: Answer = decoder.decode(line)
        if isinstance(answer, Ran):
            progress("observe", answer.done, len(job.samples))
        elif isinstance(answer, Failed):
            raise _raised(answer)
        elif isinstance(answer, Found):
            return answer.extremes
    return None


def _raised(failed: Failed) -> SwapnetError:
    kind: type[SwapnetError] = getattr(errors, failed.error)
    if issubclass(kind, BudgetError):
        return kind(
            failed.what, why=failed.why, hint=failed.hint, smallest_bytes=failed.smallest_bytes
        )
    return kind(failed.what, why=failed.why, hint=failed.hint)


def _death(child: subprocess.Popen[str], said: IO[str], limit_bytes: int | None) -> SwapnetError:
    child.communicate()
    status = child.returncode
    if status in (-signal.SIGKILL, 128 + signal.SIGKILL) and limit_bytes is not None:
        return BudgetError(
            "calibration was killed by the kernel",
            why=f"it went above the limit of {limit_bytes} bytes ({format_size(limit_bytes)})",
            hint="give a larger budget, and report it: a budget should hold",
        )
    said.seek(0)
    lines = said.read().strip().splitlines()
    return BackendError(
        f"the process that calibrates ended with status {status}",
        why=lines[-1] if lines else "it said nothing",
        hint="run it again; if it stays, report it with this message",
    )
