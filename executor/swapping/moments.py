"""Moments in the work of a backend: on the host they have passed, on a GPU they are events."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Protocol

__all__ = ["Mark", "Passed"]


class Mark(Protocol):
    """Moment after all work that was started before the mark was made."""

    @property
    def time(self) -> float:
        """Seconds on the clock of `time.perf_counter`; known after `wait`."""

    def wait(self) -> None:
        """Wait until the moment has come.

        Raises
        ------
        BackendError
            Work before it failed.
        """


@dataclass(frozen=True)
class Passed:
    """A moment of the host: it has come when it is made."""

    time: float = field(default_factory=time.perf_counter)

    def wait(self) -> None:
        pass
