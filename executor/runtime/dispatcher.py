"""The threads' side of the scheduler: events from models and readers, instructions to them."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from typing import Concatenate, Literal, ParamSpec

from swapnet.executor.runtime.decisions import Decision, OnDecision
from swapnet.executor.runtime.policy import Policy
from swapnet.executor.runtime.scheduler import Instruction, Scheduler
from swapnet.executor.swapping.pipeline import Pipeline
from swapnet.executor.swapping.readers import Channel, Workers
from swapnet.executor.swapping.ring import Ring

__all__ = ["Dispatcher", "Port"]

P = ParamSpec("P")

Event = Callable[Concatenate[Scheduler, P], Sequence[Instruction]]

_OF_THE_TELLER = ("refuse", "evict", "grant")
"""Instructions that whoever told the event carries out."""

_LOGGER = logging.getLogger(__name__)


class Dispatcher:
    """Drives a `Scheduler` with the threads of models and readers.

    Parameters
    ----------
    policy, lanes, readers
        As for `Scheduler`.
    divide
        Divides the budget again, as `later`, where rates have drifted. What it raises is logged.
    on_decision
        Called with every decision, in order and with the lock held: it must be short, and ask
        nothing of the runtime. What it raises is ignored.
    """

    def __init__(
        self,
        *,
        policy: Policy | str = Policy.DEADLINE,
        lanes: int = 1,
        readers: int = 1,
        divide: Callable[[], None] | None = None,
        on_decision: OnDecision | None = None,
    ) -> None:
        self.scheduler = Scheduler(policy, lanes=lanes, readers=readers)
        self.channel = Channel(readers)
        self._on_decision = on_decision
        self._keep("opened", (Policy(policy).value, lanes, readers))
        self._ports: dict[str, Port] = {}
        self._divide = divide or (lambda: None)
        self._division: Future[None] | None = None
        self._background = Workers(1, "swapnet-background")

    def add(self, name: str, rate_per_s: float, *, rows: int = 1, keeps_lane: bool = False) -> Port:
        """A model comes; see `Scheduler.loaded`."""
        self._ports[name] = port = Port(self, name)
        self.tell(Scheduler.loaded, name, time.perf_counter(), rate_per_s, rows, keeps_lane)
        return port

    def tell(self, event: Event[P], *args: P.args, **_: P.kwargs) -> Sequence[Instruction]:
        """Give an event to the scheduler, and its instructions to those who carry them out.

        What it is called with is positional, as `Decision` keeps it.

        Returns
        -------
        sequence of Instruction
            All of them; ``refuse``, ``evict``, ``grant`` and ``resize`` are for the caller.
        """
        with self.channel.lock:
            instructions: Sequence[Instruction] = getattr(self.scheduler, event.__name__)(*args)
            for instruction in instructions:
                if instruction.model:
                    self._ports[instruction.model].carry_out(instruction)
                elif instruction.do == "divide" and not _waits(self._division):
                    self._division = self.later(self._divide_or_log)
            self._keep(event.__name__, args, instructions)
            return instructions

    def _keep(
        self, event: str, args: tuple[object, ...], instructions: Sequence[Instruction] = ()
    ) -> None:
        if self._on_decision is not None:
            with suppress(Exception):
                self._on_decision(Decision(event, args, tuple(instructions), time.perf_counter()))

    def later(self, work: Callable[[], None]) -> Future[None]:
        """Have something done in a thread that is no model's, one after the other."""
        return self._background.submit(work)

    def close(self) -> None:
        """Stop all threads and wait for them; after the models. Safe to call twice."""
        self.channel.close()
        self._background.close()

    def _divide_or_log(self) -> None:
        try:
            self._divide()
        except Exception:
            _LOGGER.exception("the budget keeps its split")


def _waits(work: Future[None] | None) -> bool:
    return work is not None and not (work.running() or work.done())


class Port:
    """The `Order` of a model, and the inbox of its thread; made by `Dispatcher.add`."""

    def __init__(self, dispatcher: Dispatcher, name: str) -> None:
        self.name = name
        self.scheduler = dispatcher.scheduler
        self.channel = dispatcher.channel
        self.tell = dispatcher.tell
        self._inbox: deque[Instruction] = deque()
        self._changed = threading.Condition(self.channel.lock)
        self._granted = threading.Event()
        self._pipeline: Pipeline | None = None
        self.gives_up: Callable[[], bool] = lambda: False
        """Asked around each turn: nobody waits for the answer any more."""

    def carry_out(self, instruction: Instruction) -> None:
        """Wake whoever carries out an instruction; with the lock held."""
        if instruction.do == "step":
            self._granted.set()
        elif instruction.do == "read":
            assert self._pipeline is not None
            self.channel.put(self._pipeline.claim(*instruction.numbers))
        elif instruction.do not in _OF_THE_TELLER:
            self._inbox.append(instruction)
            self._changed.notify_all()

    def next_work(self) -> Instruction:
        """Wait for what the model's thread is to do; `Scheduler.done` ends serving and changing."""
        with self.channel.lock:
            while not self._inbox:
                self._changed.wait()
            return self._inbox.popleft()

    def begin(self) -> None:
        self.tell(Scheduler.began, self.name)

    def take(self) -> None:
        if self.gives_up() or (self._granted.wait() and self.gives_up()):
            raise CancelledError
        self._granted.clear()

    def leave(self) -> None:
        with self.channel.lock:
            self.tell(Scheduler.left, self.name)
            self._granted.clear()

    def clear(self) -> bool:
        if self.scheduler.lanes == 1:
            return False
        self.tell(Scheduler.crowded, self.name)
        self.take()
        return True

    def begin_reading(self, pipeline: Pipeline) -> Ring:
        self._pipeline = pipeline
        self.tell(Scheduler.planned, self.name, pipeline.number, pipeline.needs, pipeline.afters)
        return self.scheduler.ring(self.name)

    def note(
        self, event: Literal["landed", "lost", "ended", "halted"], plan: int, *numbers: int
    ) -> None:
        self.tell(getattr(Scheduler, event), self.name, plan, *numbers)
