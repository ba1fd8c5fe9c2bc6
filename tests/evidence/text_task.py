"""Texts that two models read, compared line by line."""

from __future__ import annotations

from collections.abc import Callable

from swapnet.arrays import Array

__all__ = ["TextTask"]


class TextTask:
    """Keeps the texts that change: expected and found.

    Parameters
    ----------
    read
        Puts an output into words, one string for each row.
    """

    def __init__(self, read: Callable[[Array], list[str]]) -> None:
        self._read = read
        self._lines = 0
        self.changed: list[tuple[str, str]] = []

    def add(self, reference: Array, found: Array) -> None:
        pairs = list(zip(self._read(reference), self._read(found), strict=True))
        self._lines += len(pairs)
        self.changed += [pair for pair in pairs if pair[0] != pair[1]]

    def result(self) -> str:
        """A few words: how many texts are unchanged, and how many but for spaces."""
        respaced = sum(_letters(expected) == _letters(found) for expected, found in self.changed)
        same = self._lines - len(self.changed)
        words = f"{same} of {self._lines} texts unchanged"
        return f"{words}, {same + respaced} but for spaces" if respaced else words


def _letters(text: str) -> str:
    return "".join(text.split())
