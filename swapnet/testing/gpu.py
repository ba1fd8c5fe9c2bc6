"""A simulated GPU in host memory: asynchronous, with a virtual clock.

Work is enqueued and runs later, in any order that streams and events allow, drawn from a seed.
Missing order therefore fails for some seed: a copy overtakes the kernel that still reads, or a
kernel the copy that it needs. Times are virtual: each stream has a clock, copies move it by their
bytes, calls by their given durations, and an event carries one clock to another.
"""

from __future__ import annotations

import ctypes
import random
import threading
from collections import deque
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

from swapnet.errors import BackendError, BudgetError
from swapnet.executor.gpu.accelerator import Attributes, MemoryKind
from swapnet.executor.gpu.accelerator import Event as AnyEvent
from swapnet.executor.gpu.accelerator import Stream as AnyStream
from swapnet.executor.swapping.arena import Arena

__all__ = ["SimulatedAccelerator"]

_FRESH = 0xA5
"""Byte of memory before anything is written."""

_EAGERNESS = (0, 1, 2)
"""Most pieces of work that run when another is enqueued; drawn once from the seed."""


class SimulatedAccelerator:
    """An `Accelerator` in host memory.

    Parameters
    ----------
    seed
        Seed of the order of work.
    total_bytes
        Size of device and managed memory.
    is_integrated
        Its memory is the host's.
    copy_bytes_per_ms
        Speed of copies.
    call_ms
        Duration of each call, one after the other, over and over.
    failing
        Numbers of the copies to the device that fail.

    Attributes
    ----------
    copies, calls
        Enqueued so far.
    """

    onnxruntime_device = "cpu"
    index = 0

    def __init__(
        self,
        seed: int = 0,
        *,
        total_bytes: int = 1 << 32,
        is_integrated: bool = False,
        copy_bytes_per_ms: float = float("inf"),
        call_ms: Sequence[float] = (0.0,),
        failing: Collection[int] = (),
    ) -> None:
        self.attributes = Attributes(
            name="simulated",
            compute_capability=(0, 0),
            total_bytes=total_bytes,
            is_integrated=is_integrated,
            has_managed_memory=True,
            has_concurrent_access=True,
            can_map_host_memory=True,
            driver="0.0",
        )
        self._random = random.Random(seed)
        self._eagerness = self._random.choice(_EAGERNESS)
        self._copy_bytes_per_ms = copy_bytes_per_ms
        self._call_ms = tuple(call_ms)
        self.failing = frozenset(failing)
        self._streams: list[Stream] = []
        self._lock = threading.RLock()
        self._used_bytes = 0
        self.copies = self.calls = 0
        self._failure: Exception | None = None

    def current(self) -> AbstractContextManager[None]:
        return nullcontext()

    def stream(self) -> Stream:
        with self._lock:
            self._streams.append(Stream(self))
            return self._streams[-1]

    def default_stream(self) -> Stream:
        return self.stream()

    def allocate(self, kind: MemoryKind, nbytes: int) -> Buffer:
        with self._lock:
            counted = nbytes if kind in (MemoryKind.DEVICE, MemoryKind.MANAGED) else 0
            if counted > self.free_bytes():
                raise BudgetError(
                    "the simulated GPU is full",
                    why=f"{nbytes} bytes were asked for, {self.free_bytes()} are free",
                    hint="give a smaller budget",
                )
            self._used_bytes += counted
            return Buffer(self, kind, nbytes, counted)

    def copy_in(self, stream: AnyStream, destination: int, source: memoryview) -> None:
        number = self.copies
        self.copies += 1

        def work() -> None:
            if number in self.failing:
                raise BackendError("the simulated GPU refused", why=f"copy {number} fails", hint="")
            ctypes.memmove(destination, _address(source), len(source))

        self._enqueue(stream, work, len(source) / self._copy_bytes_per_ms)

    def copy_out(self, stream: AnyStream, destination: memoryview, source: int) -> None:

        def work() -> None:
            ctypes.memmove(_address(destination), source, len(destination))

        self._enqueue(stream, work, len(destination) / self._copy_bytes_per_ms)

    def fill(self, stream: AnyStream, address: int, nbytes: int, byte: int) -> None:
        self._enqueue(stream, lambda: ctypes.memset(address, byte, nbytes) and None, 0.0)

    def free_bytes(self) -> int:
        return self.attributes.total_bytes - self._used_bytes

    def _enqueue(self, stream: AnyStream, work: Callable[[], object], ms: float) -> None:
        assert isinstance(stream, Stream)
        self.append(stream, _Work(work, ms))

    def append(self, stream: Stream, item: _Work | Event | tuple[Event]) -> None:
        """Enqueue work, an event to record, or, in a tuple, one to wait for."""
        with self._lock:
            stream.queue.append(item)
            for _ in range(self._random.randrange(self._eagerness + 1)):
                self._advance()

    def call(self, stream: Stream, work: Callable[[], None]) -> None:
        """Enqueue a call; it takes the next of ``call_ms``."""
        ms = self._call_ms[self.calls % len(self._call_ms)]
        self.calls += 1
        self._enqueue(stream, work, ms)

    def run_until(self, is_done: Callable[[], bool]) -> None:
        """Run work, in any order that is allowed, until ``is_done``.

        Raises
        ------
        BackendError
            Work failed, which is raised once; or nothing can go on.
        """
        with self._lock:
            while not is_done():
                if not self._advance():
                    raise BackendError(
                        "the simulated GPU stands still",
                        why="every stream waits for an event of another",
                        hint="the order of work is wrong",
                    )
            if self._failure is not None:
                failure, self._failure = self._failure, None
                raise failure

    def release(self, nbytes: int) -> None:
        """Give memory back: as with CUDA, all work ends first."""
        with self._lock:
            while self._advance():
                pass
            self._used_bytes -= nbytes

    def _advance(self) -> bool:
        ready = [stream for stream in self._streams if stream.is_ready]
        if not ready:
            return False
        try:
            self._random.choice(ready).step()
        except Exception as error:
            self._failure = self._failure or error
        return True


@dataclass(frozen=True)
class _Work:
    run: Callable[[], object]
    ms: float


@dataclass
class Event:
    """A moment of a simulated stream."""

    accelerator: SimulatedAccelerator
    ms: float | None = None

    def synchronize(self) -> None:
        self.accelerator.run_until(lambda: self.ms is not None)

    def ms_since(self, earlier: AnyEvent) -> float:
        assert isinstance(earlier, Event)
        assert self.ms is not None
        assert earlier.ms is not None
        return self.ms - earlier.ms


@dataclass
class Stream:
    """Work in order."""

    accelerator: SimulatedAccelerator
    queue: deque[_Work | Event | tuple[Event]] = field(default_factory=deque)
    """Work, events to record, and, in tuples, events to wait for."""
    now_ms: float = 0.0

    @property
    def is_ready(self) -> bool:
        """Whether its first piece of work can run."""
        if not self.queue:
            return False
        head = self.queue[0]
        return not isinstance(head, tuple) or head[0].ms is not None

    def step(self) -> None:
        """Run the first piece of work."""
        head = self.queue.popleft()
        if isinstance(head, _Work):
            self.now_ms += head.ms
            head.run()
        elif isinstance(head, Event):
            head.ms = self.now_ms
        else:
            assert head[0].ms is not None
            self.now_ms = max(self.now_ms, head[0].ms)

    @property
    def handle(self) -> int:
        """No handle that a library would know."""
        return 0

    def call(self, work: Callable[[int], None]) -> None:
        self.accelerator.call(self, lambda: work(self.handle))

    def flush(self) -> None:
        self.accelerator.run_until(lambda: not self.queue)

    def wait(self, event: AnyEvent) -> None:
        assert isinstance(event, Event)
        self.accelerator.append(self, (event,))

    def record(self) -> Event:
        event = Event(self.accelerator)
        self.accelerator.append(self, event)
        return event

    def synchronize(self) -> None:
        self.flush()


class Buffer:
    """Host memory, poisoned at first."""

    def __init__(
        self, accelerator: SimulatedAccelerator, kind: MemoryKind, nbytes: int, counted: int
    ) -> None:
        self._accelerator = accelerator
        self._kind = kind
        self._counted = counted
        self._arena = Arena(nbytes)
        self._arena.fill(0, nbytes, _FRESH)
        self.address = self._arena.address
        self.nbytes = nbytes

    def view(self, offset: int, nbytes: int) -> memoryview:
        if not self._kind.is_host_visible:
            raise BackendError(
                "the host touched device memory", why=f"{nbytes} bytes at {offset}", hint=""
            )
        return self._arena.view(offset, nbytes)

    def free(self) -> None:
        self._accelerator.release(self._counted)
        self._counted = 0


def _address(view: memoryview) -> int:
    return ctypes.addressof((ctypes.c_char * len(view)).from_buffer(view))
