"""A forked process that waits for its job: it begins with all that this one has loaded."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from swapnet.errors import SwapnetError
from swapnet.process.child import ProcessDied
from swapnet.process.failure import Failed, failure_of, raised
from swapnet.process.parenthood import die_with_parent

__all__ = ["Forked"]


class Forked:
    """A context manager of the process, which ends with it.

    Parameters
    ----------
    work
        Takes the job, and returns the answer; both must be picklable.
    verb
        Activity of the process, for messages.
    """

    def __init__(self, work: Callable[..., Any], verb: str) -> None:
        self._verb = verb
        context = multiprocessing.get_context("fork")
        self._pipe, there = context.Pipe()
        self._process = context.Process(target=_serve, args=(os.getpid(), there, work), daemon=True)
        self._process.start()
        there.close()

    def begin(self, *job: Any) -> None:
        """Give the job."""
        self._pipe.send(job)

    def answer(self, patience_s: float | None = None) -> Any:
        """Wait for the answer.

        Parameters
        ----------
        patience_s
            Time-out; None waits for ever.

        Raises
        ------
        SwapnetError
            The process raised it.
        ProcessDied
            The process ended without an answer, or took too long.
        """
        if not self._pipe.poll(patience_s):
            raise ProcessDied(
                f"the process that {self._verb} has not answered",
                why=f"it was given {patience_s:g} s",
                hint="free some memory, and run it again",
            )
        try:
            found = self._pipe.recv()
        except EOFError as error:
            raise ProcessDied(
                f"the process that {self._verb} has died",
                why="it gave no answer, likely for want of memory",
                hint="free some memory, and run it again",
            ) from error
        if isinstance(found, Failed):
            raise raised(found)
        return found

    def __enter__(self) -> Forked:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the process. Safe to call twice."""
        self._pipe.close()
        self._process.kill()
        self._process.join()


def _serve(parent: int, pipe: Connection, work: Callable[..., Any]) -> None:
    try:
        # An orphan would wait for ever: it has a copy of the end that jobs come from.
        die_with_parent(parent)
        job = pipe.recv()
    except EOFError:
        return
    try:
        pipe.send(work(*job))
    except SwapnetError as error:
        pipe.send(failure_of(error))
