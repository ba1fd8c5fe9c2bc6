"""A forked process that waits for its job: it begins with all that this one has loaded."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from swapnet.errors import SwapnetError
from swapnet.process.failure import Failed, ProcessDied, ProcessTimedOut, failure_of, raised
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
        self._who = who = f"the process that {verb}"
        context = multiprocessing.get_context("fork")
        self._pipe, there = context.Pipe()
        job = (os.getpid(), there, work, who)
        self._process = context.Process(target=_serve, args=job, daemon=True)
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
            The process ended without an answer, or failed in another way.
        ProcessTimedOut
            It took too long; it goes on.
        """
        if patience_s is not None and not self._pipe.poll(patience_s):
            raise ProcessTimedOut(self._who, patience_s)
        try:
            found = self._pipe.recv()
        except (EOFError, ConnectionResetError) as error:
            self._process.join()
            raise ProcessDied.of(self._who, self._process.exitcode or 0, "no answer") from error
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


def _serve(parent: int, pipe: Connection, work: Callable[..., Any], who: str) -> None:
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
    except Exception as error:
        pipe.send(failure_of(ProcessDied.of(who, 1, f"{type(error).__name__}: {error}")))
