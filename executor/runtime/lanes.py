"""Who computes: the most urgent inference that has its bytes, from step to step."""

from __future__ import annotations

import threading

from swapnet.executor.runtime.policy import Job, Policy, ReadyQueue
from swapnet.executor.sharing import Turn
from swapnet.executor.swapping.readers import Rank

__all__ = ["LaneTurn", "Lanes", "Uninterrupted"]


class Lanes:
    """The compute device: so many inferences execute a step at the same moment.

    Parameters
    ----------
    count
        1 interleaves inferences, more let them run beside each other.
    policy
        Whose turn it is.
    """

    def __init__(self, count: int = 1, policy: Policy | str = Policy.DEADLINE) -> None:
        self.count = count
        self._lock = threading.Lock()
        self._free = count
        self._queue = ReadyQueue(policy)
        self._waiting: dict[int, LaneTurn] = {}
        self._alone: LaneTurn | None = None

    def admit(self, job: Job) -> Rank:
        """Give a request its rank, which it keeps until `dismiss`."""
        with self._lock:
            return self._queue.rank(job)

    def dismiss(self, job: Job) -> None:
        """Forget a request that has ended."""
        with self._lock:
            self._queue.done(job)

    def take(self, turn: LaneTurn) -> None:
        """Return when a turn may compute its next step; see `Turn.take`."""
        with self._lock:
            if turn.held and self._may_keep(turn):
                return
            self._put_back(turn)
            self._wait_in_line(turn)
            self._pass_on()
        turn.granted.wait()

    def leave(self, turn: LaneTurn) -> None:
        """See `Turn.leave`."""
        with self._lock:
            self._put_back(turn)
            self._pass_on()

    def clear(self, turn: LaneTurn) -> bool:
        """Return when no other turn computes; see `Turn.clear`."""
        with self._lock:
            if self.count == 1:
                return False
            while self._alone not in (None, turn):
                self._put_back(turn)
                self._wait_in_line(turn)
                self._pass_on()
                self._lock.release()
                turn.granted.wait()
                self._lock.acquire()
            self._alone = turn
            turn.granted.clear()
            self._pass_on()
        turn.granted.wait()
        return True

    def _may_keep(self, turn: LaneTurn) -> bool:
        if self._alone is not None:
            return False
        best = self._queue.first()
        return best is None or self._queue.rank(best) > self._queue.rank(turn.job)

    def _put_back(self, turn: LaneTurn) -> None:
        if turn.held:
            turn.held = False
            self._free += 1
        if self._alone is turn:
            self._alone = None

    def _wait_in_line(self, turn: LaneTurn) -> None:
        turn.granted.clear()
        self._queue.add(turn.job)
        self._waiting[turn.job.sequence] = turn

    def _pass_on(self) -> None:
        """Free lanes go to who waits; all but one stay free while a turn has to be alone."""
        if self._alone is not None:
            if self._free == self.count - 1:
                self._alone.granted.set()
            return
        while self._free and len(self._queue):
            turn = self._waiting.pop(self._queue.pop().sequence)
            self._free -= 1
            turn.held = True
            turn.granted.set()


class LaneTurn:
    """One inference's right to compute; see `Turn`.

    Parameters
    ----------
    lanes
        What it computes on.
    job
        The request; admitted.

    Attributes
    ----------
    held
        Whether it computes.
    granted
        Set when it may.
    """

    def __init__(self, lanes: Lanes, job: Job) -> None:
        self.job = job
        self.held = False
        self.granted = threading.Event()
        self._lanes = lanes

    def take(self) -> None:
        """See `Turn.take`."""
        self._lanes.take(self)

    def leave(self) -> None:
        """See `Turn.leave`."""
        self._lanes.leave(self)

    def clear(self) -> bool:
        """See `Turn.clear`."""
        return self._lanes.clear(self)


class Uninterrupted:
    """A turn that is kept from the first step to the end of the inference.

    For engines with values of unknown size: those lie in the scratch memory that others use.

    Parameters
    ----------
    turn
        What is kept; the caller leaves it.
    """

    def __init__(self, turn: Turn) -> None:
        self._turn = turn
        self._taken = False

    def take(self) -> None:
        """See `Turn.take`."""
        if not self._taken:
            self._turn.take()
            self._taken = True

    def leave(self) -> None:
        """Not yet."""

    def clear(self) -> bool:
        """See `Turn.clear`."""
        return self._turn.clear()
