"""A block compiled in a process of its own, which gives all memory back when it ends."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
from contextlib import suppress

import msgspec

from swapnet.builder.compilers.tensorrt.job import Job
from swapnet.builder.compilers.tensorrt.progress_monitor import Report
from swapnet.errors import BackendUnavailableError, ModelError, SwapnetError

__all__ = ["End", "Refusal", "Step", "compile_in_child"]

_COMMAND = ["-m", "swapnet.builder.compilers.tensorrt.worker"]

_KINDS: dict[str, type[SwapnetError]] = {
    kind.__name__: kind for kind in (ModelError, BackendUnavailableError)
}


class Step(msgspec.Struct, frozen=True, tag=True):
    """The builder is so far."""

    done: int
    total: int


class End(msgspec.Struct, frozen=True, tag=True):
    """What `compile_engine` returned."""

    activation_bytes: int | None


class Refusal(msgspec.Struct, frozen=True, tag=True):
    """What it raised."""

    kind: str
    what: str
    why: str
    hint: str


def compile_in_child(job: Job, report: Report) -> int | None:
    """As `compile_engine`, in a child process (``swapnet.builder.compilers.tensorrt.worker``).

    Raises
    ------
    ModelError
        Also where the child is killed.
    """
    last: Step | End | Refusal | None = None
    with (
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(
            [sys.executable, *_COMMAND],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        ) as child,
    ):
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            with suppress(BrokenPipeError):  # it ended before it read all: its status says why
                child.stdin.write(msgspec.json.encode(job).decode())
                child.stdin.close()
            for line in child.stdout:
                last = msgspec.json.decode(line, type=Step | End | Refusal)
                if isinstance(last, Step):
                    report(last.done, last.total)
            status = child.wait()
        except BaseException:
            child.kill()
            raise
        errors.seek(0)
        said = errors.read()
    if isinstance(last, Refusal):
        raise _KINDS[last.kind](last.what, why=last.why, hint=last.hint)
    if status or not isinstance(last, End):
        raise _death(job, status, said.strip().rpartition("\n")[2])
    return last.activation_bytes


def _death(job: Job, status: int, last_line: str) -> ModelError:
    what = f"{job.title} can't be compiled by {job.backend}"
    if status >= 0:
        return ModelError(what, why=last_line or f"the process ended with {status}")
    likely = ", likely for memory" if status == -signal.SIGKILL else ""
    return ModelError(
        what,
        why=f"the process was killed by signal {-status} ({signal.strsignal(-status)}){likely}",
        hint="free some memory, or give a smaller --max-block" if likely else "",
    )
