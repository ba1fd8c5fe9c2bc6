"""A child process as it sees its parent; `swapnet.process.child` is the other side.

Arguments of the process are libraries of custom operators (`swapnet.custom_ops`). The parent writes
lines of JSON to standard input, the first of them the job. The process answers with lines of JSON,
and with raw bytes where a line announces them. Standard output of libraries goes to standard error,
so that it can't be taken for an answer.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import IO, Any, TypeVar

import msgspec

from swapnet.custom_ops import use_custom_ops
from swapnet.errors import SwapnetError
from swapnet.process.failure import failure_of
from swapnet.process.parenthood import end_with_parent
from swapnet.progress import Progress

__all__ = ["Parent", "Reached", "answering", "serve"]

T = TypeVar("T")


class Reached(msgspec.Struct, frozen=True, tag=True):
    """Progress of a job: parts of a stage that are done."""

    stage: str
    done: int
    total: int


class Parent:
    """The process that started this one: it writes ``lines`` and reads ``answers``.

    Several threads can answer.
    """

    def __init__(self, lines: IO[bytes], answers: IO[bytes]) -> None:
        self._lines = lines
        self._answers = answers
        self._lock = threading.Lock()

    def job(self, kind: type[T]) -> T:
        """The first line.

        Raises
        ------
        EOFError
            The parent has gone.
        """
        line = self._lines.readline()
        if not line:
            raise EOFError
        return msgspec.json.decode(line, type=kind)

    def commands(self, kind: Any) -> Iterator[Any]:
        """Further lines, each of which waits for its answer, until the parent ends them."""
        for line in self._lines:
            yield msgspec.json.decode(line, type=kind)

    def answer(self, value: Any, data: Sequence[bytes | memoryview] = ()) -> None:
        """Write one line, and bytes after it."""
        with self._lock:
            self._answers.write(msgspec.json.encode(value) + b"\n")
            for piece in data:
                self._answers.write(piece)
            self._answers.flush()

    def reached(self, stage: str, done: int, total: int) -> None:
        """Write the progress of the job."""
        self.answer(Reached(stage, done, total))


def answering(kind: type[T], run: Callable[[T, Progress], Any]) -> Callable[[Parent], None]:
    """Work for `serve`: one job of this kind; the answer is what ``run`` returns for it."""

    def work(parent: Parent) -> None:
        parent.answer(run(parent.job(kind), parent.reached))

    return work


def serve(work: Callable[[Parent], None], parent: Parent | None = None) -> int:
    """Work for the parent of this process.

    Parameters
    ----------
    work
        Takes the job, and answers. A SwapnetError is answered too, and ends the process.
    parent
        Parent to work for, in tests; by default that of this process.

    Returns
    -------
    int
        Status to exit with: 2 after an error, 1 where the parent has gone.
    """
    try:
        if parent is None:
            end_with_parent()
            # Not `sys.stdin`: a forked process has what its parent read ahead in it.
            parent = Parent(open(0, "rb", closefd=False), os.fdopen(os.dup(1), "wb"))  # noqa: SIM115
            os.dup2(2, 1)
            use_custom_ops(*sys.argv[1:])
        work(parent)
    except SwapnetError as error:
        assert parent is not None
        parent.answer(failure_of(error))
        return 2
    except (EOFError, BrokenPipeError):
        return 1
    return 0
