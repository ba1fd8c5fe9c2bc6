"""Parts that models share which run in one process under one budget."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from swapnet.executor.backends.scratch import Scratch
from swapnet.executor.swapping.arena import Arena
from swapnet.executor.swapping.pipeline import Urgency
from swapnet.executor.swapping.readers import Channel

__all__ = ["ALONE", "Sharing", "Turn"]


@dataclass(frozen=True)
class Sharing:
    """Parts that one model shares with others.

    Attributes
    ----------
    channel
        Reads for all models.
    scratch
        Memory that kernels use while a step is executed.
    urgency
        Urgency of this model's reads among all.
    inside
        Memory for values inside the block that is executed; None for memory of its own.
    """

    channel: Channel
    scratch: Scratch
    urgency: Urgency
    inside: Arena | None = None


class Turn(Protocol):
    """Right of one inference to compute."""

    def take(self) -> None:
        """Return when the next step may be executed; steps of others may run before it."""

    def leave(self) -> None:
        """Let others compute: this inference waits for bytes, or has ended."""

    def clear(self) -> bool:
        """Return when nothing else computes, until the next `take` or `leave`.

        Returns
        -------
        bool
            True where anything else could have computed.
        """


class _Alone:
    def take(self) -> None:
        pass

    def leave(self) -> None:
        pass

    def clear(self) -> bool:
        return False


ALONE: Turn = _Alone()
"""Turn of a model that shares its processor with no other."""
