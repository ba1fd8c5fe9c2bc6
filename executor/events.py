"""Records of what happens to an executor, for a callable of the user."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from swapnet.executor.execution import Inference
from swapnet.executor.planning.plan import Plan

__all__ = ["Event", "Events", "OnEvent"]

_LOGGER = logging.getLogger("swapnet")


@dataclass(frozen=True)
class Event:
    """Record of something that has happened.

    Attributes
    ----------
    kind
        ``opened``; ``plan``: another plan is in force, for another budget or share; ``grown``: the
        arena for values whose size depends on data has grown, with another plan for the same
        budget; ``inference``: one gave outputs; ``failed``: one raised; ``late``: storage did not
        answer in time; ``refused``: arrays of a request do not fit the model; ``closed``.
    model
        Name of the engine directory, or of the model in a runtime.
    plan
        The plan in force; None where the kind is ``refused``.
    inference
        The inference, where the kind is ``inference``.
    error
        The error, where the kind is ``failed``, ``late`` or ``refused``.
    time
        The moment, on the clock of `time.perf_counter`, in seconds.
    """

    kind: Literal["opened", "plan", "grown", "inference", "failed", "late", "refused", "closed"]
    model: str
    plan: Plan | None = None
    inference: Inference | None = None
    error: Exception | None = None
    time: float = field(default_factory=time.perf_counter)


OnEvent = Callable[[Event], object]


class Events:
    """Calls a user's callable with events, in the order in which they were noted.

    Events are noted where they happen and told later, when no lock is held: the callable may use
    the executor.

    Parameters
    ----------
    on_event
        The callable; None for none. Its first exception is logged, the others are ignored.
    model
        Name in the events.
    """

    def __init__(self, on_event: OnEvent | None, model: str) -> None:
        self._on_event = on_event
        self._model = model
        self._noted: deque[Event] = deque()
        self._has_failed = False

    def note(self, kind: Any, **facts: Any) -> None:
        """Keep an event until `tell`."""
        if self._on_event is not None:
            self._noted.append(Event(kind, self._model, **facts))

    def tell(self) -> None:
        """Call the user's callable with what was noted."""
        while self._on_event is not None and self._noted:
            try:
                event = self._noted.popleft()
            except IndexError:  # another thread has told it
                return
            try:
                self._on_event(event)
            except Exception:
                if not self._has_failed:
                    _LOGGER.warning("on_event failed at %r", event.kind, exc_info=True)
                self._has_failed = True
