"""Progress of a long job."""

from __future__ import annotations

from typing import Protocol

__all__ = ["Progress", "silent"]


class Progress(Protocol):
    """Called at the start of a stage and with each of its parts."""

    def __call__(self, stage: str, done: int, total: int) -> None:
        """``done`` of ``total`` parts of ``stage``."""


def silent(stage: str, done: int, total: int) -> None:
    """Say nothing."""
    del stage, done, total
