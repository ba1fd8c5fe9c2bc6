"""What models share that run in one process under one budget."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from swapnet.executor.backends.scratch import Scratch
from swapnet.executor.swapping.pipeline import Urgency
from swapnet.executor.swapping.readers import Channel

__all__ = ["ALONE", "Sharing", "Turn"]


@dataclass(frozen=True)
class Sharing:
    """One model's part in it.

    Attributes
    ----------
    channel
        Reads for all of them.
    scratch
        What kernels use while a step is executed.
    urgency
        Of this model's reads, among all.
    """

    channel: Channel
    scratch: Scratch
    urgency: Urgency


class Turn(Protocol):
    """The right to compute, of one inference."""

    def take(self) -> None:
        """Return when the next step may be executed; others may have been before it."""

    def leave(self) -> None:
        """Let others compute: this inference waits for bytes, or has ended."""

    def clear(self) -> bool:
        """Return when nothing else computes, until the next `take` or `leave`.

        Returns
        -------
        bool
            Whether anything else could have.
        """


class _Alone:
    """Nobody else computes."""

    def take(self) -> None:
        """At once."""

    def leave(self) -> None:
        """To nobody."""

    def clear(self) -> bool:
        """Nothing else could."""
        return False


ALONE: Turn = _Alone()
"""For a model that shares its processor with no other."""
