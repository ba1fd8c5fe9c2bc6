"""The time that storage may take for one request, before those who wait for it give up."""

from __future__ import annotations

import time
from math import inf

from swapnet.errors import InputError, StorageError

__all__ = ["LAST_LOOK_S", "STORAGE_TIMEOUT_MS", "Patience", "StalledError"]

STORAGE_TIMEOUT_MS = 30_000.0
"""Default limit: a hard disk that was asleep, or a card that collects garbage, takes seconds."""

_CLOSING_MS = 5_000.0
_LOOK_S = 1.0
"""Longest wait until the limit is looked at again, which may have become shorter."""
LAST_LOOK_S = 0.05
"""Time for a late request to be noticed: after a process was stopped, all look late."""


class StalledError(StorageError):
    """A request has not come back, and its bytes may still come: the memory can't be used again."""


class Patience:
    """Limit of the time that storage may take for one request.

    Parameters
    ----------
    timeout_ms
        The limit.
    slowed_ms
        Time that a pace adds to a request; it is storage that answers as it was asked to.

    Raises
    ------
    InputError
        The limit is not above 0.
    """

    def __init__(self, timeout_ms: float = STORAGE_TIMEOUT_MS, *, slowed_ms: float = 0.0) -> None:
        if not 0 < timeout_ms <= inf:
            raise InputError(
                f"storage_timeout_ms {timeout_ms:g} is invalid",
                why="it must be above 0",
                hint=f"leave it out for {STORAGE_TIMEOUT_MS:g} milliseconds",
            )
        self._slowed_ms = slowed_ms
        self._timeout_ms = timeout_ms

    def hurry(self) -> None:
        """Allow 5 seconds at most from now on: what waits is to be closed."""
        self._timeout_ms = min(self._timeout_ms, _CLOSING_MS)

    def hurried(self) -> Patience:
        """The limit where it only decides whether memory is used again: 5 seconds at most."""
        return Patience(min(self._timeout_ms, _CLOSING_MS), slowed_ms=self._slowed_ms)

    def left_s(self, since_s: float) -> float:
        """Seconds until a request that began at ``since_s`` is late; negative where it is."""
        limit_s = (self._timeout_ms + self._slowed_ms) / 1e3
        return since_s + limit_s - time.perf_counter()

    def look_s(self, since_s: float) -> float:
        """Seconds to wait for such a request before `left_s` is asked again."""
        return max(min(self.left_s(since_s), _LOOK_S), 1e-3)

    def error(self, name: str, nbytes: int, offset: int, since_s: float) -> StalledError:
        """The error of a late request.

        Parameters
        ----------
        name
            The weights that were read.
        nbytes, offset
            The request.
        since_s
            Its begin.
        """
        waited_ms = (time.perf_counter() - since_s) * 1e3
        return StalledError(
            f"{name} could not be read: storage does not answer",
            why=f"{nbytes} bytes at {offset} have not come in {waited_ms:.0f} ms, "
            f"the limit is {self._timeout_ms:g} ms",
            hint="check the storage, or give a longer storage_timeout_ms",
        )
