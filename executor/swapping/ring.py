"""The counts of a ring: which read may begin, and which step has its bytes."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import pairwise

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
    room
        Above 0 where the place of the next read is free: steps that have ended since.
    lead
        Not below 0 where the reads of the next step have arrived: those beyond them.
    """

    def __init__(self, needs: Sequence[int], afters: Sequence[int]) -> None:
        self._steps, self._reads = len(needs), len(afters)
        self._step = self._read = self._claimed = self.arrived = self.ahead = 0
        self._landed: set[int] = set()
        self.lead = -needs[0]
        self.room = -afters[0] if afters else -sys.maxsize
        # From each count to the next; those of the next inference are larger by its reads or steps.
        self._needs_more = [b - a for a, b in pairwise((*needs, needs[0] + self._reads))]
        laps = [after + self._steps for after in afters[:1]]
        self._waits_more = [b - a for a, b in pairwise((*afters, *laps))]

    def claim(self) -> int:
        """Begin the next read: its number."""
        self.room -= self._waits_more[self._read]
        self._read += 1
        if self._read == self._reads:
            self._read = 0
            self.ahead += 1
        self._claimed += 1
        return self._claimed - 1

    def land(self, number: int) -> None:
        """Note that the bytes of a read are there."""
        landed = self._landed
        if number != self.arrived:  # reads before it are in flight
            landed.add(number)
            return
        self.arrived += 1
        while landed and self.arrived in landed:
            landed.remove(self.arrived)
            self.arrived += 1
        self.lead += self.arrived - number

    def end(self) -> bool:
        """Note that the next step has ended; True where it was the last of its inference."""
        self.room += 1
        self.lead -= self._needs_more[self._step]
        self._step += 1
        if self._step < self._steps:
            return False
        self._step = 0
        self.ahead -= 1
        return True
