"""The right to compute: from step to step, the most urgent inference that has its bytes."""

from __future__ import annotations

import threading

from swapnet.executor.runtime.policy import Job, Policy, ReadyQueue
from swapnet.executor.sharing import Turn
from swapnet.executor.swapping.readers import Rank

__all__ = ["LaneTurn", "Lanes", "Uninterrupted"]


class Lanes:
    """The compute device, which executes a step of ``count`` inferences at the same moment.

    Parameters
    ----------
    count
        1 interleaves inferences, more let them run beside each other.
    policy
        Order of requests.
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
        with self._lock:
            self._put_back(turn)
            self._pass_on()

    def clear(self, turn: LaneTurn) -> bool:
        """Return when no other turn computes; see `Turn.clear`."""
        with self._lock:
            if self.count == 1:
                return False
            # One turn at a time may be alone. A second one has to give its lane back first: the
            # turn that is alone waits until all other lanes are free. So it waits in line like any
            # other, which means without the lock, and looks again when its lane was granted: a
            # third turn may be alone by then. Once it is alone, `_pass_on` keeps freed lanes, and
            # grants this turn when only its own is taken.
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
        """Give free lanes to waiting turns; all but one stay free while a turn has to be alone."""
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

    Attributes
    ----------
    held
        True while it computes.
    granted
        Set when it may.
    """

    def __init__(self, lanes: Lanes, job: Job) -> None:
        self.job = job
        self.held = False
        self.granted = threading.Event()
        self._lanes = lanes

    def take(self) -> None:
        self._lanes.take(self)

    def leave(self) -> None:
        self._lanes.leave(self)

    def clear(self) -> bool:
        return self._lanes.clear(self)


class Uninterrupted:
    """A turn that is kept from the first step to the end of the inference.

    For engines with values of unknown size: those lie in the scratch memory that others use.
    """

    def __init__(self, turn: Turn) -> None:
        self._turn = turn
        self._taken = False

    def take(self) -> None:
        if not self._taken:
            self._turn.take()
            self._taken = True

    def leave(self) -> None:
        """Keep it: the caller leaves it after the last step."""

    def clear(self) -> bool:
        return self._turn.clear()
