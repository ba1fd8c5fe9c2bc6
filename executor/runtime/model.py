"""`RuntimeModel`: one engine among several, with a thread and a queue of its own."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count
from typing import Any, Protocol, TypeVar, cast

from swapnet.errors import BackendError, BudgetError, InputError
from swapnet.executor.backends.scratch import release_frames
from swapnet.executor.planning.plan import Plan
from swapnet.executor.runtime.batching import agree, join, kind_of, largest_batch, part, rows_of
from swapnet.executor.runtime.dispatcher import Port
from swapnet.executor.runtime.objectives import Changes, Objectives
from swapnet.executor.runtime.policy import Job
from swapnet.executor.runtime.scheduler import Scheduler
from swapnet.executor.runtime.shared_executor import SharedExecutor
from swapnet.executor.stats import Histogram, Stats
from swapnet.executor.swapping.host_values import placed
from swapnet.process.forks import Birthplace
from swapnet.tensors import Array

__all__ = ["ModelStats", "Owner", "RuntimeModel", "settle", "unloaded"]

T = TypeVar("T")

_SEQUENCE = count()

_Answer = dict[str, Array] | Exception


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
    inputs: dict[str, Array]
    out: dict[str, Array]
    result: Future[dict[str, Array]]


class Owner(Protocol):
    """The runtime, as its models see it."""

    def update(self, changes: Mapping[RuntimeModel, Changes]) -> None: ...

    def unload(self, model: RuntimeModel) -> None: ...

    def grow(self, model: RuntimeModel, error: BudgetError) -> Future[None]: ...

    def serving(self) -> RuntimeModel | None:
        """The model whose thread is the calling one; it can't wait for any."""


class RuntimeModel:
    """A loaded engine; made by `SwapRuntime.load`. Safe to call from several threads."""

    def __init__(
        self,
        name: str,
        executor: SharedExecutor,
        objectives: Objectives,
        port: Port,
        owner: Owner,
    ) -> None:
        self._birthplace = Birthplace(f"model {name}")
        self.name = name
        self.executor = executor
        self.objectives = objectives
        self._port = port
        self._owner = owner
        self._requests: dict[int, _Request] = {}
        """Requests that have not begun, by number."""
        self._changes: deque[tuple[Callable[[], None], Future[None]]] = deque()
        self._counting = threading.Lock()
        self._stats = ModelStats()
        self._can_join = largest_batch(executor.manifest) > 1
        self._joins_well = False
        """Joined requests were seen to give what each gives alone."""
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
        with self._counting:
            return replace(self._stats, waiting=len(self._requests), execution=self.executor.stats)

    def rate_per_s(self) -> float:
        """Requests per second, as expected and as seen; of a model that was unloaded, 0."""
        self._birthplace.check()
        if not self._thread.is_alive():  # another model may have its name since
            return 0.0
        return self._port.scheduler.rate_per_s(self.name, time.perf_counter())

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

        The future can be cancelled until it has a result: what runs ends after its step.

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
            self._port.tell(Scheduler.refused, self.name, str(error))
            result.set_exception(error)
            return result
        job = Job(
            model=self.name,
            sequence=next(_SEQUENCE),
            arrival_s=now,
            deadline_s=now + self.objectives.patience_s,
            weight=self.objectives.priority,
            service_ms=self.executor.plan.predicted_ms,
            rows=rows_of(checked) if self._can_join else 1,
            kind=kind_of(checked) if self._can_join else None,
        )
        with self._port.channel.lock:
            is_open = self._thread.is_alive()  # another model may have its name since
            told = self._port.tell(Scheduler.asked, job) if is_open else ()
            if not is_open or any(each.do == "refuse" for each in told):
                raise unloaded(self.name)
            self._requests[job.sequence] = _Request(job, checked, destinations, result)
        result.add_done_callback(partial(self._cancel, job.sequence))
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
        given = {"priority": priority, "deadline_ms": deadline_ms, "rate_per_s": rate_per_s}
        changes = cast("Changes", {name: each for name, each in given.items() if each is not None})
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
        with self._counting:
            self._stats = replace(self._stats, replans=self._stats.replans + replans)

    def between(self, change: Callable[[], None]) -> Future[None]:
        """Call something between two inferences, before any request that waits."""
        done: Future[None] = Future()
        self._changes.append((change, done))
        self._port.tell(Scheduler.changing, self.name)
        return done

    def is_served_here(self) -> bool:
        """True on the thread that serves this model."""
        return threading.current_thread() is self._thread

    def expect(self, changes: Changes) -> None:
        """Take other objectives; where a rate is given, what was seen so far is forgotten."""
        self.objectives = replace(self.objectives, **changes)
        if "rate_per_s" in changes:
            rate_per_s = self.objectives.rate_per_s
            self._port.tell(Scheduler.expected, self.name, time.perf_counter(), rate_per_s)

    def close(self) -> None:
        """Finish what was submitted, then release everything. Safe to call twice."""
        if self._thread.is_alive():
            self._port.tell(Scheduler.closing, self.name)
        self._thread.join()
        self.executor.close()

    def _work(self) -> None:
        while (work := self._port.next_work()).do != "stop":
            if work.do == "change":
                self._make_change()
            else:
                self._serve(work.numbers)

    def _make_change(self) -> None:
        change, done = self._changes.popleft()
        settle(done, change)
        self._port.tell(Scheduler.done, self.name)

    def _cancel(self, sequence: int, result: Future[dict[str, Array]]) -> None:
        """Forget a request that was cancelled before it began; called when it has ended."""
        if result.cancelled() and self._requests.pop(sequence, None) is not None:
            result.set_running_or_notify_cancel()
            self._port.tell(Scheduler.cancelled, self.name, sequence)

    def _serve(self, sequences: Sequence[int]) -> None:
        begun = [r for n in sequences if (r := self._requests.pop(n, None)) is not None]
        try:
            answers = zip(begun, self._answers(begun), strict=True)
        finally:
            self._port.tell(Scheduler.done, self.name)
        asked = [each for each in answers if each[0].result.set_running_or_notify_cancel()]
        failures = sum(isinstance(answer, Exception) for _, answer in asked)
        now = time.perf_counter()
        with self._counting:
            stats = self._stats
            latency = stats.latency
            for request, answer in asked:
                if not isinstance(answer, Exception):
                    latency = latency.plus((now - request.job.arrival_s) * 1e3)
            self._stats = replace(
                stats,
                requests=stats.requests + len(asked),
                failures=stats.failures + failures,
                latency=latency,
            )
        for request, answer in asked:
            if isinstance(answer, Exception):
                request.result.set_exception(answer)
            else:
                request.result.set_result(answer)

    def _answers(self, requests: Sequence[_Request]) -> list[_Answer]:
        """Answer requests together where that is known to be the same, else one by one."""
        if not requests:
            return []
        joined = self._joined(requests) if len(requests) > 1 and self._can_join else None
        if joined is not None and self._joins_well:
            return [_hand_over(*pair) for pair in zip(joined, requests, strict=True)]
        alone = [self._attempt([one], one.out) for one in requests]
        if joined is not None and not any(one.result.cancelled() for one in requests):
            whole = [answer for answer in alone if not isinstance(answer, Exception)]
            self._joins_well = len(whole) == len(alone) and agree(joined, whole)
            self._can_join = self._joins_well
        return alone

    def _joined(self, requests: Sequence[_Request]) -> Sequence[dict[str, Array]] | None:
        answer = self._attempt(requests)
        if isinstance(answer, Exception):  # any of the requests may be at fault
            return None
        return part(answer, [one.job.rows for one in requests])

    def _attempt(
        self, requests: Sequence[_Request], out: Mapping[str, Array] | None = None
    ) -> _Answer:
        answer = self._execute(requests, out)
        while isinstance(answer, BudgetError) and answer.missing_bytes:
            if (refusal := self._wait_for_growth(requests[0].job, answer)) is not None:
                self.executor.refuse(refusal)
                answer = refusal
                break
            self.executor.grown()
            answer = self._execute(requests, out)
        return answer

    def _execute(self, requests: Sequence[_Request], out: Mapping[str, Array] | None) -> _Answer:
        self._port.gives_up = lambda: all(one.result.cancelled() for one in requests)
        try:
            return self.executor(join([one.inputs for one in requests]), out)
        except Exception as error:
            return error
        finally:
            self._port.gives_up = lambda: False  # arrays of requests are not to be kept

    def _wait_for_growth(self, job: Job, error: BudgetError) -> Exception | None:
        """Change as others do until scratch memory has grown; the refusal if it can't."""
        release_frames(error)
        self._port.tell(Scheduler.suspended, self.name)
        growth = self._owner.grow(self, error)
        growth.add_done_callback(
            lambda ended: self._port.tell(
                Scheduler.resumed, self.name, job.sequence, ended.exception() is None
            )
        )
        while (work := self._port.next_work()).do == "change":
            self._make_change()
        if work.do == "resume":
            return None
        refusal = growth.exception() if growth.done() else error
        return refusal if isinstance(refusal, Exception) else None


def _hand_over(outputs: Mapping[str, Array], request: _Request) -> _Answer:
    """Outputs of one of several joined requests, in the arrays that came with it."""
    try:
        return {name: placed(array, name, request.out) for name, array in outputs.items()}
    except InputError as error:
        return error


def settle(done: Future[T], work: Callable[[], T]) -> None:
    """Call something, and give its result or its error to a future."""
    try:
        result = work()
    except Exception as error:
        done.set_exception(error)
    else:
        done.set_result(result)


def unloaded(name: str) -> BackendError:
    """The error of a call on a model that is gone."""
    return BackendError(
        f"{name} is not loaded any more",
        why="it was used after unload() or close()",
        hint="load it again",
    )
