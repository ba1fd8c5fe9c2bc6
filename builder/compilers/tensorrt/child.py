"""A block compiled in a process of its own, which gives all memory back when it ends."""

from __future__ import annotations

import sys

import msgspec

from swapnet.builder.compilers.tensorrt.engine import compile_engine
from swapnet.builder.compilers.tensorrt.job import Job
from swapnet.builder.compilers.tensorrt.progress_monitor import Report
from swapnet.errors import ModelError
from swapnet.process.ask import ask
from swapnet.process.failure import Failed, ProcessDied
from swapnet.process.serve import Parent, serve

__all__ = ["compile_in_child"]

_MODULE = "swapnet.builder.compilers.tensorrt.child"


class Step(msgspec.Struct, frozen=True, tag=True):
    """Progress of the library's builder."""

    done: int
    total: int


class End(msgspec.Struct, frozen=True, tag=True):
    """Result of `compile_engine`."""

    activation_bytes: int | None


def compile_in_child(job: Job, report: Report) -> int | None:
    """As `compile_engine`, in a child process.

    Raises
    ------
    ModelError
        Also where the child is killed.
    """

    def hear(answer: Step | End) -> End | None:
        if isinstance(answer, End):
            return answer
        report(answer.done, answer.total)
        return None

    try:
        end = ask(_MODULE, job, Step | End | Failed, hear, verb="compiles the block")
    except ProcessDied as error:
        raise ModelError(
            f"{job.title} can't be compiled by {job.backend}",
            why=f"{error.what}: {error.why}",
            hint=f"{error.hint}, or give a smaller --max-block",
        ) from error
    return end.activation_bytes


def work(parent: Parent) -> None:
    """Compile the block that the parent asks for."""
    job = parent.job(Job)
    activation_bytes = compile_engine(job, lambda done, total: parent.answer(Step(done, total)))
    parent.answer(End(activation_bytes))


if __name__ == "__main__":
    sys.exit(serve(work))
