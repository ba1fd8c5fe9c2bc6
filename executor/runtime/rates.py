"""Request rate of a model, as expected and as seen."""

from __future__ import annotations

from math import exp, inf

__all__ = ["RateMeter"]

_MEMORY = 20.0
"""Requests over which intervals are averaged."""


class RateMeter:
    """An average over the latest requests; not thread-safe.

    Intervals are weighted exponentially. The one that goes on counts once it is longer than
    expected: a model that is asked no more is seen to be so.

    Parameters
    ----------
    expected_per_s
        Rate that is expected until requests have come; may be 0.
    since_s
        Time from which they are expected.

    Attributes
    ----------
    next_s
        Expected time of the next request; in the past where it is overdue, infinite where none is
        expected.
    """

    def __init__(self, expected_per_s: float, since_s: float = 0.0) -> None:
        self._interval_s = 1 / expected_per_s if expected_per_s > 0 else None
        self._last_s: float | None = None
        self.next_s = inf if self._interval_s is None else since_s + self._interval_s

    def note(self, now_s: float) -> None:
        """A request has come."""
        if self._last_s is not None:
            interval = max(now_s - self._last_s, 1e-6)
            before = interval if self._interval_s is None else self._interval_s
            self._interval_s = before + (interval - before) / _MEMORY
        self._last_s = now_s
        if self._interval_s is not None:
            self.next_s = now_s + self._interval_s

    def rate_per_s(self, now_s: float) -> float:
        """Requests per second."""
        if self._interval_s is None:
            return 0.0
        waiting = self._interval_s if self._last_s is None else now_s - self._last_s
        late = max(waiting - self._interval_s, 0.0)
        weight = 1 - exp(-late / self._interval_s / _MEMORY)
        return 1 / (self._interval_s + weight * late)
