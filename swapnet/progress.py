"""Progress of a long job."""

from __future__ import annotations

from typing import Protocol

__all__ = ["Progress", "silent"]


class Progress(Protocol):
    """Called at the start of a stage and with each of its parts."""

    def __call__(self, stage: str, done: int, total: int) -> None:
        """``done`` of ``total`` parts of ``stage``; a total of 0 is unknown.

        A stage may end in a comma and what was found so far: ``"measure, median 12.1 ms"``.
        """


def silent(stage: str, done: int, total: int) -> None:
    """Say nothing."""
    del stage, done, total
