"""Moments in what a backend executes: on the host they have passed, on a GPU they are events."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Protocol

__all__ = ["Mark", "Passed"]


class Mark(Protocol):
    """A moment after everything that was executed, or copied, before it was made."""

    @property
    def time(self) -> float:
        """When it came, on the clock of `time.perf_counter`, in seconds; known after `wait`."""

    def wait(self) -> None:
        """Wait until it has come.

        Raises
        ------
        BackendError
            What was executed before it failed.
        """


@dataclass(frozen=True)
class Passed:
    """A moment of the host: it has come when it is made."""

    time: float = field(default_factory=time.perf_counter)

    def wait(self) -> None:
        """Return at once."""
