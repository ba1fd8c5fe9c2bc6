"""Whose turn it is to compute: asked before every step of an inference."""

from __future__ import annotations

from typing import Protocol

__all__ = ["ALONE", "Turn"]


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
