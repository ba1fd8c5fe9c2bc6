"""The swap pipeline: ring places are filled in cyclic order, the executing side waits for bytes.

A `Ring` counts reads that have landed and steps that have ended: a read waits for steps, a step
waits for reads. On a GPU both run ahead of the device: a landed read is a copy under way, and an
ended step was only launched. Each carries the mark that the other side's device work waits for.
Reads are claimed in order, but several readers enqueue their work on the device in any order. So a
read also waits for the marks that the reads before it wait for.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from typing import Literal, Protocol

from swapnet.executor.planning.plan import Plan, Read
from swapnet.executor.swapping.loading import Loader, unusable
from swapnet.executor.swapping.moments import Mark
from swapnet.executor.swapping.patience import LAST_LOOK_S, Patience, StalledError
from swapnet.executor.swapping.readers import Channel
from swapnet.executor.swapping.ring import Ring

__all__ = ["Arrival", "Order", "Pipeline", "ReadEvent"]

_NUMBER = count()


@dataclass(frozen=True, slots=True)
class ReadEvent:
    """One finished request, for the timeline: times of `time.perf_counter`, in seconds.

    Attributes
    ----------
    block, nbytes
        The block, and the bytes of this request.
    start, end
        When a reader began with it, and when its bytes were there.
    reader
        Number of the reader; it does one request after the other.
    ahead
        Inferences from the one that ended with this record to the one that it was read for.
    """

    block: int
    nbytes: int
    start: float
    end: float
    reader: int = 0
    ahead: int = 0


@dataclass(frozen=True)
class Arrival:
    """Arrival of the reads of a step.

    Attributes
    ----------
    waited_s
        Time that the host waited for them.
    marks
        Moments from which bytes are there, for all reads that arrived since the step before.
    """

    waited_s: float
    marks: tuple[Mark, ...]


class Order(Protocol):
    """Decides when reads and steps of a model begin, among those of others.

    Attributes
    ----------
    channel
        Threads that read; their lock is held in `begin_reading` and `note`.
    """

    channel: Channel

    def begin_reading(self, pipeline: Pipeline) -> Ring:
        """Call `Pipeline.claim` for each read from now on, in order; gives the counts."""

    def note(
        self, event: Literal["landed", "lost", "ended", "halted"], plan: int, *numbers: int
    ) -> None:
        """Take an event of `swapnet.executor.runtime.scheduler.Scheduler` from a pipeline."""

    def begin(self) -> None:
        """Ask for the first step of an inference."""

    def take(self) -> None:
        """Return when the next step may be executed; CancelledError where nobody waits for it."""

    def leave(self) -> None:
        """Let others compute: this inference has ended, or failed."""

    def clear(self) -> bool:
        """Return when nothing else computes, until the end of the step.

        Returns
        -------
        bool
            True where anything else could have computed.
        """


class Pipeline:
    """The reads of one plan.

    Parameters
    ----------
    plan
        Reads and steps.
    loader
        Brings bytes to their places.
    order
        Decides when reads begin; by default as soon as there is room, with the plan's readers.
    patience
        Limit of the time that storage may take.

    Attributes
    ----------
    number
        Unique.
    needs, afters
        As for `Ring`.
    """

    def __init__(
        self,
        plan: Plan,
        loader: Loader,
        order: Order | None = None,
        *,
        patience: Patience | None = None,
    ) -> None:
        self.number = next(_NUMBER)
        self._plan = plan
        self._loader = loader
        self._order = order
        self._channel = order.channel if order else Channel(plan.readers if plan.reads else 0)
        self._changed = threading.Condition(self._channel.lock)
        """What the executing side waits for has come, or never will."""
        self._patience = patience or Patience()
        self.needs = tuple(step.reads for step in plan.steps)
        self.afters = tuple(read.after for read in plan.reads)
        self._reset()
        self._paused = True
        self._claimed: dict[int, float] = {}
        """Begin of each read in flight, by number."""
        self._events: list[tuple[int, ReadEvent]] | None = None
        self.read_bytes = 0
        """Bytes read since the pipeline was made."""
        self._read_s = 0.0
        """Time in which a read was in flight, up to the latest moment when none was."""
        self._reading_since = 0.0

    @property
    def reading_s(self) -> float:
        """Time since the pipeline was made in which at least one read was in flight."""
        with self._changed:
            since = time.perf_counter() - self._reading_since if self._claimed else 0.0
            return self._read_s + since

    def _reset(self) -> None:
        self._ring = Ring(self.needs, self.afters)
        self._lap_bytes: Counter[int] = Counter()
        self._ended = 0
        self._waited = -1
        self._wanted = 0
        self._step_marks: dict[int, Mark] = {}
        self._read_marks: dict[int, Mark] = {}
        self._failure: tuple[Read, BaseException] | None = None

    def start(self, *, trace: bool = False) -> None:
        """Begin to prefetch, for the first step of an inference; ``trace`` records all requests."""
        with self._changed:
            self._events = [] if trace else self._events
            if self._paused:
                self._paused = False
                if self._order is not None:
                    self._ring = self._order.begin_reading(self)
                self._read_on()

    def wait(self, lap: int, step: int) -> Arrival:
        """Wait until the reads of a step have arrived.

        Parameters
        ----------
        lap
            Number of inferences since `start` or `restart`.
        step
            Index of the step.

        Raises
        ------
        StorageError, BackendError
            A read failed, or did not come back in time; the message names the block.
        """
        if not self.afters:
            return Arrival(0.0, ())
        needed = self._needed(lap, step)
        waited_s = 0.0
        with self._changed:
            ring = self._ring
            if ring.arrived < needed:
                start = time.perf_counter()
                self._wanted = needed
                while ring.arrived < needed and self._failure is None:
                    self._wait_patiently(start)
                if ring.arrived < needed and self._failure is not None:
                    read, error = self._failure
                    raise unusable(read.block, error) from error
                waited_s = time.perf_counter() - start
            numbers = [number for number in self._read_marks if number < needed]
            return Arrival(waited_s, tuple(map(self._read_marks.pop, numbers)))

    def done(self, mark: Mark) -> None:
        """Note that the step of the latest `wait` has ended, or ends at ``mark``.

        Its blocks may be overwritten then.
        """
        if not self.afters and self._order is None:
            return
        with self._changed:
            self._step_marks[self._ended] = mark
            self._step_marks.pop(self._ended - 2 * len(self._plan.steps), None)
            self._ended += 1
            if self._order is not None:
                self._order.note("ended", self.number)
            else:
                self._ring.end()
                self._read_on()

    def take_events(self, lap: int) -> tuple[ReadEvent, ...]:
        """Requests that ended since the latest call, of which ``lap`` is the inference that ended.

        Empty unless tracing.
        """
        with self._changed:
            taken = self._events or []
            if self._events is not None:
                self._events = []
        return tuple(
            replace(event, ahead=number // len(self._plan.reads) - lap) for number, event in taken
        )

    def take_read_bytes(self, lap: int) -> int:
        """Bytes that were read for an inference that has ended; forgotten with this call."""
        with self._changed:
            return self._lap_bytes.pop(lap, 0)

    def restart(self) -> None:
        """Begin with the first block again after a failed inference; requests in flight end.

        Raises
        ------
        StalledError
            One of them does not come back; nothing is read until it does.
        """
        with self._changed:
            self._halt()
            while self._claimed:
                self._wait_patiently(time.perf_counter())
            self._loader.reset()
            self._reset()
        self.start(trace=self._events is not None)

    def close(self) -> bool:
        """Stop reading and wait for requests in flight. Safe to call twice.

        Returns
        -------
        bool
            False where a request does not come back: its bytes may still come.
        """
        with self._changed, suppress(StalledError):
            self._halt()
            limit = self._patience.hurried()
            while self._claimed:
                self._wait_patiently(time.perf_counter(), limit)
        if self._order is None:
            self._channel.close()
        return not self._claimed

    def _wait_patiently(self, start: float, patience: Patience | None = None) -> None:
        """Wait for a change, with the lock held; no longer than storage may take.

        Storage is late where the oldest request in flight is. Where there is none, requests of
        others keep all readers since some time, or since ``start``.
        """
        limit = patience or self._patience
        waited_for = number, begin = self._waited_for()
        if begin is None:
            begin = time.perf_counter()
        elif number is None:
            begin = max(start, begin)
        if limit.left_s(begin) > 0:
            self._changed.wait(limit.look_s(begin))
            return
        self._changed.wait(LAST_LOOK_S)
        if self._waited_for() == waited_for:
            late = self._ring.arrived if number is None else number
            read = self._plan.reads[late % len(self._plan.reads)]
            error = limit.error(f"block {read.block}", read.stored_bytes, read.file_offset, begin)
            self._failure = self._failure or (read, error)
            self._halt()
            raise error

    def _waited_for(self) -> tuple[int | None, float | None]:
        """The oldest request in flight and its begin, or that of others that keep all readers."""
        number = next(iter(self._claimed), None)
        return number, self._channel.busy_since() if number is None else self._claimed[number]

    def _halt(self) -> None:
        self._paused = True
        self._wanted = 0  # every read that ends is news
        if self._order is not None:
            self._order.note("halted", self.number)

    def _read_on(self) -> None:
        """Begin the reads that there is room for, where no order says when."""
        if self._order is not None or self._paused or self._failure is not None:
            return
        while len(self._claimed) < self._plan.readers and self._ring.room > 0:
            self._channel.put(self.claim(self._ring.claim()))

    def claim(self, number: int) -> Callable[[], None]:
        """A read that begins: a function that does it, to be called without the lock."""
        lap, index = divmod(number, len(self._plan.reads))
        read = self._plan.reads[index]
        self._waited = max(self._waited, lap * len(self._plan.steps) + read.after)
        now = time.perf_counter()
        if not self._claimed:
            self._reading_since = now
        self._claimed[number] = now
        return partial(self._load, number, read, self._step_marks.get(self._waited))

    def _needed(self, lap: int, step: int) -> int:
        return lap * len(self._plan.reads) + self._plan.steps[step].reads

    def _load(self, number: int, read: Read, after: Mark | None) -> None:
        start, reader = time.perf_counter(), self._channel.reader_here()
        try:
            landed: Mark | Exception = self._loader.load(read, after)
        except Exception as error:
            landed = error
        with self._changed:
            self._claimed.pop(number, None)
            if not self._claimed:
                self._read_s += time.perf_counter() - self._reading_since
            if isinstance(landed, Exception):
                self._failure = self._failure or (read, landed)
                if self._order is not None:
                    self._order.note("lost", self.number)
            else:
                self.read_bytes += read.stored_bytes
                self._lap_bytes[number // len(self._plan.reads)] += read.stored_bytes
                self._read_marks[number] = landed
                if self._events is not None:
                    end = time.perf_counter()
                    event = ReadEvent(read.block, read.stored_bytes, start, end, reader)
                    self._events.append((number, event))
                if self._order is not None:
                    self._order.note("landed", self.number, number)
                else:
                    self._ring.land(number)
            self._read_on()
            if self._ring.arrived >= self._wanted or self._failure is not None:
                self._changed.notify_all()
