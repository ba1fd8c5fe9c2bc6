"""`RuntimeModel`: one engine among several, with a thread and a queue of its own."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from itertools import count, islice
from typing import Any, Protocol

from swapnet.errors import BackendError, BudgetError, InputError
from swapnet.executor.backends.scratch import release_frames
from swapnet.executor.planning.plan import Plan
from swapnet.executor.runtime.batching import agree, are_alike, join, largest_batch, part, rows_of
from swapnet.executor.runtime.lanes import Lanes, LaneTurn, Uninterrupted
from swapnet.executor.runtime.memory import is_interruptible
from swapnet.executor.runtime.objectives import Changes, Objectives
from swapnet.executor.runtime.policy import Job
from swapnet.executor.runtime.rates import RateMeter
from swapnet.executor.runtime.shared_executor import SharedExecutor
from swapnet.executor.stats import Histogram, Stats
from swapnet.executor.swapping.host_values import placed
from swapnet.executor.swapping.readers import Rank
from swapnet.process.forks import Birthplace
from swapnet.tensors import Array

__all__ = ["ModelStats", "Owner", "RuntimeModel", "Urgencies", "settle", "unloaded"]

_SEQUENCE = count()

_Answer = dict[str, Array] | Exception

_FORESEEN = 4
"""Inferences ahead with a known urgency: a ring holds no more."""


@dataclass(frozen=True)
class ModelStats:
    """Counted since the model was loaded.

    Attributes
    ----------
    requests, failures
        Requests that have ended, and those that raised.
    waiting
        Requests that have not begun.
    replans
        Changes of its share.
    latency
        Times from when requests were submitted to their answers, without those that raised.
    execution
        Counts of its executor: inferences with their latencies, stalls, and the time of opening.
    """

    requests: int = 0
    failures: int = 0
    waiting: int = 0
    replans: int = 0
    latency: Histogram = field(default_factory=Histogram)
    execution: Stats = field(default_factory=Stats)

    @property
    def inferences(self) -> int:
        """Inferences that have ended: fewer than requests where some were joined."""
        return self.execution.inferences + self.execution.failures

    @property
    def read_bytes(self) -> int:
        """Bytes read from storage, in advance or not."""
        return self.execution.read_bytes


@dataclass(frozen=True)
class _Request:
    job: Job
    rank: Rank
    inputs: dict[str, Array]
    out: dict[str, Array]
    result: Future[dict[str, Array]]


class Urgencies:
    """Urgency of a model's reads: first for requests that wait, then for expected ones."""

    def __init__(self, meter: RateMeter) -> None:
        self.meter = meter
        self.pending: tuple[Rank, ...] = ()
        """Ranks of the inference that runs, and of requests that wait."""

    def __call__(self, ahead: int) -> Rank:
        pending = self.pending
        if ahead < len(pending):
            return (0.0, *pending[ahead])
        return (1.0, self.meter.next_s(time.perf_counter()), float(ahead))


class Owner(Protocol):
    """The runtime, as its models see it."""

    def asked(self) -> None:
        """A request has come."""

    def update(self, changes: Mapping[RuntimeModel, Changes]) -> None:
        """Split the budget for other expectations."""

    def unload(self, model: RuntimeModel) -> None:
        """Finish what was submitted, and give the memory to others."""

    def grow(self, model: RuntimeModel, error: BudgetError) -> Future[None]:
        """Give values that did not fit more memory; the model goes on changing meanwhile."""

    def serving(self) -> RuntimeModel | None:
        """The model whose thread is the calling one; it can't wait for any."""


class RuntimeModel:
    """A loaded engine; made by `SwapRuntime.load`. Safe to call from several threads."""

    def __init__(
        self,
        name: str,
        executor: SharedExecutor,
        objectives: Objectives,
        lanes: Lanes,
        urgencies: Urgencies,
        owner: Owner,
    ) -> None:
        self._birthplace = Birthplace(f"model {name}")
        self.name = name
        self.executor = executor
        self.objectives = objectives
        self._lanes = lanes
        self._urgencies = urgencies
        self._owner = owner
        self._changed = threading.Condition()
        self._queue: deque[_Request] = deque()
        self._changes: deque[tuple[Callable[[], None], Future[None]]] = deque()
        self._running: tuple[_Request, ...] = ()
        self._closing = False
        self._stats = ModelStats()
        self._rows = largest_batch(executor.manifest)
        self._joins_well = False
        """Joined requests were seen to give what each gives alone."""
        self._is_interruptible = is_interruptible(executor.manifest)
        self._thread = threading.Thread(target=self._work, name=f"swapnet-{name}", daemon=True)
        self._thread.start()

    @property
    def budget_bytes(self) -> int:
        """Share of the budget now: the budget that the same plan would need alone."""
        return self.executor.plan.budget_bytes

    @property
    def stats(self) -> ModelStats:
        """Counts since the model was loaded."""
        self._birthplace.check()
        with self._changed:
            return replace(self._stats, waiting=len(self._queue), execution=self.executor.stats)

    def rate_per_s(self) -> float:
        """Requests per second, as expected and as seen."""
        self._birthplace.check()
        with self._changed:
            return self._urgencies.meter.rate_per_s(time.perf_counter())

    def __call__(
        self, inputs: Mapping[str, Any], out: Mapping[str, Any] | None = None
    ) -> dict[str, Array]:
        """Run one inference; inputs, outputs and errors are those of `SwapExecutor.__call__`.

        Raises
        ------
        BackendError
            The call came from a done-callback of a model of the runtime, which then would wait.
        """
        if (waiting := self._owner.serving()) is not None:
            raise BackendError(
                f"{self.name} can't be asked here",
                why=f"this is a done-callback, or on_event, on the thread of {waiting.name}",
                hint="submit() instead, or call from another thread",
            )
        return self.submit(inputs, out, copy=False).result()

    async def infer(
        self, inputs: Mapping[str, Any], out: Mapping[str, Any] | None = None
    ) -> dict[str, Array]:
        """Run one inference that the event loop need not wait for; see `SwapExecutor.infer`."""
        import asyncio  # 2 MiB that only its users pay for

        return await asyncio.wrap_future(self.submit(inputs, out, copy=False))

    def submit(
        self,
        inputs: Mapping[str, Any],
        out: Mapping[str, Any] | None = None,
        *,
        copy: bool = True,
    ) -> Future[dict[str, Array]]:
        """Queue one inference; parameters and result are those of `SwapExecutor.submit`.

        Raises
        ------
        BackendError
            The model was unloaded.
        """
        self._birthplace.check()
        now = time.perf_counter()
        result: Future[dict[str, Array]] = Future()
        try:
            checked, destinations = self.executor.check(inputs, out, copy=copy)
        except Exception as error:
            result.set_exception(error)
            return result
        job = Job(
            model=self.name,
            sequence=next(_SEQUENCE),
            arrival_s=now,
            deadline_s=now + self.objectives.patience_s,
            weight=self.objectives.priority,
            service_ms=self.executor.plan.predicted_ms,
        )
        with self._changed:
            if self._closing:
                raise unloaded(self.name)
            rank = self._lanes.admit(job)
            self._queue.append(_Request(job, rank, checked, destinations, result))
            self._urgencies.meter.note(now)
            self._foresee()
            self._changed.notify_all()
        self._owner.asked()
        return result

    def update(
        self,
        *,
        priority: float | None = None,
        deadline_ms: float | None = None,
        rate_per_s: float | None = None,
    ) -> None:
        """Change what is promised or expected; see `SwapRuntime.update` for several models.

        Parameters
        ----------
        priority, deadline_ms, rate_per_s
            As in `SwapRuntime.load`; None leaves one as it is.

        Raises
        ------
        InputError
            One of them is out of its range.
        StorageError, BackendError
            A plan could not be put in force; the one before is. Or the model was unloaded.
        """
        changes = Changes()
        if priority is not None:
            changes["priority"] = priority
        if deadline_ms is not None:
            changes["deadline_ms"] = deadline_ms
        if rate_per_s is not None:
            changes["rate_per_s"] = rate_per_s
        self._owner.update({self: changes})

    def unload(self) -> None:
        """Finish what was submitted, then give the memory back. Safe to call twice."""
        self._owner.unload(self)

    def __enter__(self) -> RuntimeModel:
        return self

    def __exit__(self, *_: object) -> None:
        self.unload()

    def adopt(self, plan: Plan) -> None:
        """Put a prepared plan in force; called between two inferences."""
        replans = int(plan != self.executor.plan)
        self.executor.adopt(plan)
        self._count(replans=replans)

    def between(self, change: Callable[[], None]) -> Future[None]:
        """Call something between two inferences, before any request that waits."""
        done: Future[None] = Future()
        with self._changed:
            self._changes.append((change, done))
            self._changed.notify_all()
        return done

    def is_served_here(self) -> bool:
        """True on the thread that serves this model."""
        return threading.current_thread() is self._thread

    def expect(self, changes: Changes) -> None:
        """Take other objectives; where a rate is given, what was seen so far is forgotten."""
        with self._changed:
            self.objectives = replace(self.objectives, **changes)
            if "rate_per_s" in changes:
                self._urgencies.meter = RateMeter(self.objectives.rate_per_s)

    def close(self) -> None:
        """Finish what was submitted, then release everything. Safe to call twice."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join()
        self.executor.close()

    def _work(self) -> None:
        while True:
            with self._changed:
                while not (self._changes or self._queue or self._closing):
                    self._changed.wait()
                if self._changes:
                    change, done = self._changes.popleft()
                elif self._queue:
                    change = None
                    self._running = self._next()
                    self._foresee()
                else:
                    return
            if change is None:
                self._serve(self._running)
            else:
                settle(done, change)
            del change

    def _next(self) -> tuple[_Request, ...]:
        """The request that came first, and those after it that can be served with it."""
        taken = [self._queue.popleft()]
        rows = rows_of(taken[0].inputs) if self._rows > 1 else self._rows
        while self._queue and rows < self._rows:
            other = self._queue[0]
            rows += rows_of(other.inputs)
            if rows > self._rows or not are_alike(taken[0].inputs, other.inputs):
                break
            taken.append(self._queue.popleft())
        return tuple(taken)

    def _serve(self, requests: Sequence[_Request]) -> None:
        asked = [r for r in requests if r.result.set_running_or_notify_cancel()]
        turn = LaneTurn(self._lanes, requests[0].job)
        try:
            answers = self._answers(asked, turn)
        finally:
            turn.leave()
            for request in requests:
                self._lanes.dismiss(request.job)
        failures = sum(isinstance(answer, Exception) for answer in answers)
        now = time.perf_counter()
        with self._changed:
            self._running = ()
            self._foresee()
            self._count(requests=len(asked), failures=failures)
            latency = self._stats.latency
            for request, answer in zip(asked, answers, strict=True):
                if not isinstance(answer, Exception):
                    latency = latency.plus((now - request.job.arrival_s) * 1e3)
            self._stats = replace(self._stats, latency=latency)
        for request, answer in zip(asked, answers, strict=True):
            if isinstance(answer, Exception):
                request.result.set_exception(answer)
            else:
                request.result.set_result(answer)

    def _answers(self, requests: Sequence[_Request], turn: LaneTurn) -> list[_Answer]:
        """Answer requests together where that is known to be the same, else one by one."""
        if not requests:
            return []
        inputs = [request.inputs for request in requests]
        joined = self._joined(inputs, turn) if len(inputs) > 1 else None
        if joined is not None and self._joins_well:
            return [_hand_over(*pair) for pair in zip(joined, requests, strict=True)]
        alone = [self._attempt([one.inputs], turn, one.out) for one in requests]
        if joined is not None:
            whole = [answer for answer in alone if not isinstance(answer, Exception)]
            self._joins_well = len(whole) == len(alone) and agree(joined, whole)
            if not self._joins_well:
                self._rows = 1
        return alone

    def _joined(
        self, inputs: Sequence[dict[str, Array]], turn: LaneTurn
    ) -> Sequence[dict[str, Array]] | None:
        answer = self._attempt(inputs, turn)
        if isinstance(answer, Exception):  # any of the requests may be at fault
            return None
        return part(answer, [rows_of(one) for one in inputs])

    def _attempt(
        self,
        inputs: Sequence[dict[str, Array]],
        turn: LaneTurn,
        out: Mapping[str, Array] | None = None,
    ) -> _Answer:
        answer = self._execute(inputs, turn, out)
        while isinstance(answer, BudgetError) and answer.missing_bytes:
            turn.leave()
            if (refusal := self._wait_for_growth(answer)) is not None:
                self.executor.refuse(refusal)
                answer = refusal
                break
            self.executor.grown()
            answer = self._execute(inputs, turn, out)
        return answer

    def _execute(
        self, inputs: Sequence[dict[str, Array]], turn: LaneTurn, out: Mapping[str, Array] | None
    ) -> _Answer:
        kept = turn if self._is_interruptible else Uninterrupted(turn)
        try:
            return self.executor.execute(join(inputs), kept, out)
        except Exception as error:
            return error

    def _wait_for_growth(self, error: BudgetError) -> Exception | None:
        """Change as others do until scratch memory has grown; the refusal if it can't."""
        release_frames(error)
        growth = self._owner.grow(self, error)
        growth.add_done_callback(lambda _: self._wake())
        while True:
            with self._changed:
                while not (self._changes or growth.done() or self._closing):
                    self._changed.wait()
                if not self._changes:
                    break
                change, done = self._changes.popleft()
            settle(done, change)
        if not growth.done():
            return error
        try:
            growth.result()
        except Exception as refusal:
            return refusal
        return None

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _count(self, **more: int) -> None:
        with self._changed:
            now = {name: getattr(self._stats, name) + by for name, by in more.items()}
            self._stats = replace(self._stats, **now)

    def _foresee(self) -> None:
        """Tell the readers the ranks of the next inferences."""
        running = self._running[:1]
        self._urgencies.pending = tuple(
            request.rank for request in (*running, *islice(self._queue, _FORESEEN))
        )


def _hand_over(outputs: Mapping[str, Array], request: _Request) -> _Answer:
    """Outputs of one of several joined requests, in the arrays that came with it."""
    try:
        return {name: placed(array, name, request.out) for name, array in outputs.items()}
    except InputError as error:
        return error


def settle(done: Future[None], change: Callable[[], None]) -> None:
    """Call something, and give its end or its error to a future."""
    try:
        change()
    except Exception as error:
        done.set_exception(error)
    else:
        done.set_result(None)


def unloaded(name: str) -> BackendError:
    """The error of a call on a model that is gone."""
    return BackendError(
        f"{name} is not loaded any more",
        why="it was used after unload() or close()",
        hint="load it again",
    )
