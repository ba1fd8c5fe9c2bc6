"""The counts of a ring: which read may begin, and which step has its bytes."""

from __future__ import annotations

import sys
from collections.abc import Sequence

__all__ = ["Ring"]


class Ring:
    """Reads and steps of a plan, counted over all inferences since reading began.

    A place of the ring is overwritten once the step before that used it has ended; a step begins
    once its reads have arrived.

    Parameters
    ----------
    needs
        For each step: reads of an inference that must have arrived before it begins.
    afters
        For each read: the step that must have ended before it begins; negative for one of the
        inference before.

    Attributes
    ----------
    arrived
        Reads that have landed, up to the first that has not.
    ahead
        Inferences from the one that is executed or comes next to that of the next read.
    has_room
        The place of the next read is free.
    is_fed
        The reads of the next step have arrived.
    """

    def __init__(self, needs: Sequence[int], afters: Sequence[int]) -> None:
        self._needs = needs
        self._afters = afters
        self._claimed = self._ended = self.arrived = self.ahead = 0
        self._landed: set[int] = set()
        self._waits_for = afters[0] if afters else sys.maxsize
        """The step that the next read waits for."""
        self._needed = needs[0]
        """Reads that the next step needs."""
        self.has_room = self._waits_for < 0
        self.is_fed = not self._needed

    def claim(self) -> int:
        """Begin the next read: its number."""
        self._claimed += 1
        inference, read = divmod(self._claimed, len(self._afters))
        self.ahead += read == 0
        self._waits_for = inference * len(self._needs) + self._afters[read]
        self.has_room = self._ended > self._waits_for
        return self._claimed - 1

    def land(self, number: int) -> None:
        """Note that the bytes of a read are there."""
        self._landed.add(number)
        while self.arrived in self._landed:
            self._landed.remove(self.arrived)
            self.arrived += 1
        self.is_fed = self.arrived >= self._needed

    def end(self) -> bool:
        """Note that the next step has ended; True where it was the last of its inference."""
        self._ended += 1
        inference, step = divmod(self._ended, len(self._needs))
        self.ahead -= step == 0
        self._needed = inference * len(self._afters) + self._needs[step]
        self.is_fed = self.arrived >= self._needed
        self.has_room = self._ended > self._waits_for
        return step == 0
