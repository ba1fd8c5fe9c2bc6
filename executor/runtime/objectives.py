"""Service-level objectives of a model, and the rate that is expected of its callers."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from typing import TypedDict

from swapnet.errors import InputError
from swapnet.executor.runtime.policy import PATIENCE_S

__all__ = ["Changes", "Objectives"]


@dataclass(frozen=True, kw_only=True)
class Objectives:
    """Objectives of one model among others.

    Attributes
    ----------
    priority
        Weight of its latency, above 0.
    deadline_ms
        Time from a request's arrival; None for no deadline.
    rate_per_s
        Expected requests.

    Raises
    ------
    InputError
        One of them is out of its range.
    """

    priority: float = 1.0
    deadline_ms: float | None = None
    rate_per_s: float = 1.0

    def __post_init__(self) -> None:
        _check("priority", self.priority, "above 0", holds=self.priority > 0)
        _check("rate_per_s", self.rate_per_s, "0 or more", holds=self.rate_per_s >= 0)
        if self.deadline_ms is not None:
            _check("deadline_ms", self.deadline_ms, "above 0", holds=self.deadline_ms > 0)

    @property
    def patience_s(self) -> float:
        """Time after which a request is the most urgent of all."""
        return PATIENCE_S if self.deadline_ms is None else self.deadline_ms / 1e3


class Changes(TypedDict, total=False):
    """Some of the fields of `Objectives`."""

    priority: float
    deadline_ms: float
    rate_per_s: float


def _check(name: str, value: float, what: str, *, holds: bool) -> None:
    if not (holds and isfinite(value)):
        raise InputError(
            f"{name} can't be {value:g}", why=f"it must be {what}", hint="leave it out, or mend it"
        )
