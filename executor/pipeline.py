"""The swap pipeline: readers fill ring places in cyclic order, the executing side waits for bytes.

One counter on each side decides everything. ``_arrived`` counts reads that have landed in order,
``_ended`` counts steps that have ended; a read waits for steps, a step waits for reads.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

from swapnet.errors import StorageError
from swapnet.executor.arena import Arena
from swapnet.executor.plan import Plan, Read

__all__ = ["READERS", "Pipeline", "ReadEvent", "Reader", "read_once", "unreadable"]

READERS = 3
"""Requests in flight while what stays is read."""


class Reader(Protocol):
    """What the pipeline asks of storage."""

    def read_into(self, destination: memoryview, offset: int) -> None:
        """Fill ``destination`` from ``offset`` on."""


@dataclass(frozen=True)
class ReadEvent:
    """One finished request, for the timeline: times of `time.perf_counter`, in seconds."""

    block: int
    nbytes: int
    start: float
    end: float


class Pipeline:
    """Reader threads for one plan.

    Parameters
    ----------
    plan
        What to read, to where, and when it may be.
    storage
        Where to read from.
    arena
        Where to read to.
    before_read
        Called with each place before it is overwritten (tests poison it).
    """

    def __init__(
        self,
        plan: Plan,
        storage: Reader,
        arena: Arena,
        *,
        before_read: Callable[[Read], None] | None = None,
    ) -> None:
        self._plan = plan
        self._storage = storage
        self._arena = arena
        self._before_read = before_read
        self._changed = threading.Condition()
        self._reset()
        self._closed = False
        self._paused = True
        self._in_flight = 0
        self._events: list[ReadEvent] | None = None
        self.read_bytes = 0
        """Since the pipeline was made."""
        count = plan.readers if plan.reads else 0
        self._threads = [
            threading.Thread(target=self._work, name=f"swapnet-reader-{i}", daemon=True)
            for i in range(count)
        ]
        for thread in self._threads:
            thread.start()

    def _reset(self) -> None:
        self._next = 0
        self._arrived = 0
        self._landed: set[int] = set()
        self._lap_bytes: Counter[int] = Counter()
        self._ended = len(self._plan.steps)
        self._failure: tuple[Read, BaseException] | None = None

    def start(self, *, trace: bool = False) -> None:
        """Begin to prefetch; the next step to execute is the first of an inference.

        Parameters
        ----------
        trace
            Record every request from now on.
        """
        with self._changed:
            self._paused = False
            self._events = [] if trace else self._events
            self._changed.notify_all()

    def wait(self, lap: int, step: int) -> float:
        """Wait until the reads of a step have arrived.

        Parameters
        ----------
        lap
            Inferences since `start` or `restart`.
        step
            Index of the step.

        Returns
        -------
        float
            Seconds waited.

        Raises
        ------
        StorageError
            A read failed; the message names the block.
        """
        needed = lap * len(self._plan.reads) + self._plan.steps[step].reads
        with self._changed:
            if self._arrived >= needed:
                return 0.0
            start = time.perf_counter()
            while self._arrived < needed and self._failure is None:
                self._changed.wait()
            if self._arrived < needed and self._failure is not None:
                read, error = self._failure
                raise unreadable(read.block, error) from error
            return time.perf_counter() - start

    def done(self) -> None:
        """The step that was waited for last has ended: what lay under it may be overwritten."""
        with self._changed:
            self._ended += 1
            self._changed.notify_all()

    def take_events(self) -> tuple[ReadEvent, ...]:
        """Requests that ended since this was last asked; empty unless tracing."""
        with self._changed:
            taken = tuple(self._events or ())
            if self._events is not None:
                self._events = []
            return taken

    def take_read_bytes(self, lap: int) -> int:
        """Bytes that were read for an inference that has ended; asked once."""
        with self._changed:
            return self._lap_bytes.pop(lap, 0)

    def restart(self) -> None:
        """After a failed inference: let requests in flight end and begin with the first block."""
        with self._changed:
            self._paused = True
            self._changed.notify_all()
            while self._in_flight:
                self._changed.wait()
            self._reset()
        self.start()

    def close(self) -> None:
        """Stop the readers and wait for them. Safe to call twice."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        largest = max(read.nbytes for read in self._plan.reads)
        staging = Arena(largest) if self._plan.copy else None
        while (claimed := self._claim()) is not None:
            number, read = claimed
            failure: BaseException | None = None
            start = time.perf_counter()
            try:
                if self._before_read is not None:
                    self._before_read(read)
                place = self._arena.view(read.arena_offset, read.nbytes)
                target = staging.view(0, read.nbytes) if staging is not None else place
                self._storage.read_into(target, read.file_offset)
                if staging is not None:
                    place[:] = target
            except Exception as error:
                failure = error
            self._land(number, read, start, failure)

    def _claim(self) -> tuple[int, Read] | None:
        reads: Sequence[Read] = self._plan.reads
        with self._changed:
            while not self._closed:
                lap, index = divmod(self._next, len(reads))
                read = reads[index]
                allowed = (lap + 1) * len(self._plan.steps) + read.after
                if not self._paused and self._failure is None and self._ended > allowed:
                    self._next += 1
                    self._in_flight += 1
                    return lap * len(reads) + index, read
                self._changed.wait()
        return None

    def _land(self, number: int, read: Read, start: float, failure: BaseException | None) -> None:
        with self._changed:
            self._in_flight -= 1
            if failure is not None:
                self._failure = self._failure or (read, failure)
            else:
                self.read_bytes += read.nbytes
                self._lap_bytes[number // len(self._plan.reads)] += read.nbytes
                if self._events is not None:
                    self._events.append(
                        ReadEvent(read.block, read.nbytes, start, time.perf_counter())
                    )
                self._landed.add(number)
                while self._arrived in self._landed:
                    self._landed.remove(self._arrived)
                    self._arrived += 1
            self._changed.notify_all()


def read_once(storage: Reader, arena: Arena, reads: Sequence[Read]) -> None:
    """Read what stays in memory, several requests in flight.

    Raises
    ------
    StorageError
        A read failed; the message names the block.
    """

    def fetch(read: Read) -> None:
        try:
            storage.read_into(arena.view(read.arena_offset, read.nbytes), read.file_offset)
        except StorageError as error:
            raise unreadable(read.block, error) from error

    with ThreadPoolExecutor(READERS, thread_name_prefix="swapnet-load") as pool:
        for _ in pool.map(fetch, reads):
            pass


def unreadable(block: int, error: BaseException) -> StorageError:
    """A failed read, with the block that it was for; -1 is what several share."""
    name = "what several blocks share" if block < 0 else f"block {block}"
    return StorageError(
        f"{name} could not be read",
        why=error.why if isinstance(error, StorageError) else str(error),
        hint="check the storage, then: swapnet verify",
    )
