"""The measuring process as its parent sees it."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from typing import IO

import msgspec

from swapnet import errors
from swapnet.calibration.worker import Answer, Failed, Found, Job, Reached
from swapnet.errors import BackendError, SwapnetError
from swapnet.profile import Profile
from swapnet.progress import Progress

__all__ = ["measure_in_child"]


def measure_in_child(job: Job, progress: Progress) -> Profile:
    """Run a job in a process of its own; the process ends with this call, whatever happens.

    Raises
    ------
    SwapnetError
        Whatever the child raised.
    BackendError
        The child died.
    """
    # A pipe that nobody reads would stop a child that says much.
    with tempfile.TemporaryFile(mode="w+") as said:
        child = subprocess.Popen(
            [sys.executable, "-m", "swapnet.calibration.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=said,
            text=True,
            start_new_session=True,
        )
        try:
            return _listen(child, job, progress) or _raise_death(child, said)
        finally:
            if child.poll() is None:
                child.kill()
            child.communicate()


def _listen(child: subprocess.Popen[str], job: Job, progress: Progress) -> Profile | None:
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
        if isinstance(answer, Reached):
            progress(answer.stage, answer.done, answer.total)
        elif isinstance(answer, Failed):
            kind: type[SwapnetError] = getattr(errors, answer.error)
            raise kind(answer.what, why=answer.why, hint=answer.hint)
        elif isinstance(answer, Found):
            return answer.profile
    return None


def _raise_death(child: subprocess.Popen[str], said: IO[str]) -> Profile:
    child.communicate()
    said.seek(0)
    lines = said.read().strip().splitlines()
    raise BackendError(
        f"the process that measures ended with status {child.returncode}",
        why=lines[-1] if lines else "it said nothing",
        hint="run it again; if it stays, report it with this message",
    )
