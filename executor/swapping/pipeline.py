"""The swap pipeline: ring places are filled in cyclic order, the executing side waits for bytes.

One counter on each side decides everything. ``_arrived`` counts reads that have landed in order,
``_ended`` counts steps that have ended; a read waits for steps, a step waits for reads. On a GPU
both run ahead of the device: a landed read is a copy under way, and an ended step was only
launched. Each carries the mark that the other side's device work waits for. Reads are claimed in
order, but several readers enqueue their work on the device in any order. So a read also waits for
the marks that the reads before it wait for.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial

from swapnet.executor.planning.plan import Plan, Read
from swapnet.executor.swapping.loading import Loader, unusable
from swapnet.executor.swapping.moments import Mark
from swapnet.executor.swapping.patience import LAST_LOOK_S, Patience, StalledError
from swapnet.executor.swapping.readers import Channel, Rank

__all__ = ["Arrival", "Pipeline", "ReadEvent", "Urgency"]

Urgency = Callable[[int], Rank]
"""Rank of a read for an inference, counted from the one that is executed or comes next."""


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


class Pipeline:
    """The reads of one plan, a `Source` of the channel that does them.

    Parameters
    ----------
    plan
        Reads and steps.
    loader
        Brings bytes to their places.
    channel
        Channel that reads for other sources too; by default its own, with the plan's readers.
    patience
        Limit of the time that storage may take.
    urgency
        Urgency among the other sources; may be called from any thread.
    """

    def __init__(
        self,
        plan: Plan,
        loader: Loader,
        channel: Channel | None = None,
        *,
        patience: Patience | None = None,
        urgency: Urgency = lambda _: (),
    ) -> None:
        self._plan = plan
        self._loader = loader
        self._is_alone = channel is None
        self._channel = channel or Channel(plan.readers if plan.reads else 0)
        self._changed = self._channel.changed
        self._patience = patience or Patience()
        self._urgency = urgency
        self._reset()
        self._closed = False
        self._paused = True
        self._claimed: dict[int, float] = {}
        """Begin of each read in flight, by number."""
        self._events: list[tuple[int, ReadEvent]] | None = None
        self.read_bytes = 0
        """Bytes read since the pipeline was made."""
        self._read_s = 0.0
        """Time in which a read was in flight, up to the latest moment when none was."""
        self._reading_since = 0.0
        if plan.reads:
            self._channel.attach(self)

    @property
    def reading_s(self) -> float:
        """Time since the pipeline was made in which at least one read was in flight."""
        with self._changed:
            since = time.perf_counter() - self._reading_since if self._claimed else 0.0
            return self._read_s + since

    def _reset(self) -> None:
        self._next = 0
        self._arrived = 0
        self._landed: set[int] = set()
        self._lap_bytes: Counter[int] = Counter()
        self._ended = len(self._plan.steps)
        self._waited = 0
        self._step_marks: dict[int, Mark] = {}
        self._read_marks: dict[int, Mark] = {}
        self._failure: tuple[Read, BaseException] | None = None

    def start(self, *, trace: bool = False) -> None:
        """Begin to prefetch, for the first step of an inference; ``trace`` records all requests."""
        with self._changed:
            self._paused = False
            self._events = [] if trace else self._events
            self._changed.notify_all()

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
        needed = self._needed(lap, step)
        waited_s = 0.0
        with self._changed:
            if self._arrived < needed:
                start = time.perf_counter()
                while self._arrived < needed and self._failure is None:
                    self._wait_patiently(start)
                if self._arrived < needed and self._failure is not None:
                    read, error = self._failure
                    raise unusable(read.block, error) from error
                waited_s = time.perf_counter() - start
            numbers = [number for number in self._read_marks if number < needed]
            return Arrival(waited_s, tuple(map(self._read_marks.pop, numbers)))

    def has_arrived(self, lap: int, step: int) -> bool:
        """True where `wait` would return at once."""
        with self._changed:
            return self._arrived >= self._needed(lap, step)

    def done(self, mark: Mark) -> None:
        """Note that the step of the latest `wait` has ended, or ends at ``mark``.

        Its blocks may be overwritten then.
        """
        with self._changed:
            self._step_marks[self._ended] = mark
            self._step_marks.pop(self._ended - 2 * len(self._plan.steps), None)
            self._ended += 1
            self._changed.notify_all()

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
            self._paused = True
            self._changed.notify_all()
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
            if not self._closed and self._plan.reads:
                self._channel.detach(self)
            self._closed = True
            limit = self._patience.hurried()
            while self._claimed:
                self._wait_patiently(time.perf_counter(), limit)
        if self._is_alone:
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
            late = self._arrived if number is None else number
            read = self._plan.reads[late % len(self._plan.reads)]
            error = limit.error(f"block {read.block}", read.stored_bytes, read.file_offset, begin)
            self._failure = self._failure or (read, error)
            raise error

    def _waited_for(self) -> tuple[int | None, float | None]:
        """The oldest request in flight and its begin, or that of others that keep all readers."""
        number = next(iter(self._claimed), None)
        return number, self._channel.busy_since() if number is None else self._claimed[number]

    def rank(self) -> Rank | None:
        lap, _ = divmod(self._next, len(self._plan.reads))
        if self._paused or self._failure is not None or self._ended <= self._allowed():
            return None
        return self._urgency(lap + 1 - self._ended // len(self._plan.steps))

    def claim(self) -> Callable[[], None]:
        number, self._waited = self._next, max(self._waited, self._allowed())
        self._next += 1
        now = time.perf_counter()
        if not self._claimed:
            self._reading_since = now
        self._claimed[number] = now
        read = self._plan.reads[number % len(self._plan.reads)]
        return partial(self._load, number, read, self._step_marks.get(self._waited))

    def _needed(self, lap: int, step: int) -> int:
        return lap * len(self._plan.reads) + self._plan.steps[step].reads

    def _allowed(self) -> int:
        """The step, counted as in ``_ended``, that the next read waits for."""
        lap, index = divmod(self._next, len(self._plan.reads))
        return (lap + 1) * len(self._plan.steps) + self._plan.reads[index].after

    def _load(self, number: int, read: Read, after: Mark | None) -> None:
        start = time.perf_counter()
        try:
            landed: Mark | Exception = self._loader.load(read, after)
        except Exception as error:
            landed = error
        self._land(number, read, start, landed)

    def _land(self, number: int, read: Read, start: float, landed: Mark | Exception) -> None:
        with self._changed:
            self._claimed.pop(number, None)
            if not self._claimed:
                self._read_s += time.perf_counter() - self._reading_since
            if isinstance(landed, Exception):
                self._failure = self._failure or (read, landed)
            else:
                self.read_bytes += read.stored_bytes
                self._lap_bytes[number // len(self._plan.reads)] += read.stored_bytes
                self._read_marks[number] = landed
                if self._events is not None:
                    end, reader = time.perf_counter(), self._channel.reader_here()
                    event = ReadEvent(read.block, read.stored_bytes, start, end, reader)
                    self._events.append((number, event))
                self._landed.add(number)
                while self._arrived in self._landed:
                    self._landed.remove(self._arrived)
                    self._arrived += 1
            self._changed.notify_all()
