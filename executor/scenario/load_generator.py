"""Asks all DNNs of a scenario, in one runtime, each request when it is due."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from queue import Queue
from typing import TYPE_CHECKING, Any

import msgspec

from swapnet.arrays import Array, load_npz
from swapnet.errors import SwapnetError
from swapnet.executor.events import Event
from swapnet.executor.pace import Pace
from swapnet.executor.report.trace import Recorder, TraceEvent, trace_events
from swapnet.executor.runtime.decisions import Decision
from swapnet.executor.runtime.objectives import Changes
from swapnet.executor.scenario.messages import (
    Alone,
    Changed,
    Engine,
    Job,
    Measured,
    Moment,
    Ready,
    Round,
    RoundResult,
    Served,
)
from swapnet.executor.scenario.output_digests import HELD, OutputDigests, Say
from swapnet.executor.scenario.steps import Change
from swapnet.executor.scenario.traffic import Arrival
from swapnet.machine import peak_resident_bytes

if TYPE_CHECKING:
    from swapnet.executor.runtime import RuntimeModel, SwapRuntime
    from swapnet.executor.scenario.baselines import WholeModel, WholeModels

__all__ = ["LoadGenerator", "Timeline", "open_generator"]

_DECISIONS = 2048
"""Decisions that are kept for a timeline: about 1 MiB."""

_MOMENTS = 100
"""Number of moments in a round, about."""

_SHORTEST_S = 0.02
"""Shortest time between two moments."""


def open_generator(job: Job, say: Say) -> LoadGenerator:
    """The load generator of a process of our own."""
    from swapnet.executor.engine import Engine
    from swapnet.executor.runtime import SwapRuntime
    from swapnet.executor.scenario.baselines import WHOLE_MODEL, WholeModels

    device = Engine.open(job.engines[0].folder).on_threads(job.threads, own=True).device
    if job.storage_bytes_per_s is not None:
        device = replace(device, pace=Pace(job.storage_bytes_per_s))
    timeline = Timeline(job) if job.trace else None
    runtime: SwapRuntime | WholeModels
    if job.split == WHOLE_MODEL:
        runtime = WholeModels(job.budget_bytes, device=device, lanes=job.lanes)
    else:
        runtime = SwapRuntime(
            job.budget_bytes,
            device=device,
            split=job.split,
            lanes=job.lanes,
            trace=job.trace > 0,
            on_event=timeline.record if timeline else None,
            on_decision=timeline.decide if timeline else None,
        )
    try:
        return LoadGenerator(job, runtime, say, timeline)
    except BaseException:
        runtime.close()
        raise


class Timeline:
    """Inferences of each DNN, and decisions of the scheduler: the latest ones."""

    def __init__(self, job: Job) -> None:
        names = [engine.entry.name for engine in job.engines]
        self.recorders = {name: Recorder(name, job.trace) for name in names}
        self._decisions: deque[Decision] = deque(maxlen=_DECISIONS)

    def record(self, event: Event) -> None:
        """Take an event of the runtime."""
        if event.inference is not None and event.plan is not None:
            self.recorders[event.model].note(event.plan, event.inference)

    def decide(self, decision: Decision) -> None:
        """Take a decision that says something; most events have no instruction."""
        if decision.instructions or decision.event == "refused":
            self._decisions.append(decision)

    def events(self, count: int) -> list[TraceEvent]:
        """All from the last ``count`` inferences of any DNN on."""
        return trace_events([*self.recorders.values()], count, [*self._decisions])


class LoadGenerator:
    """All DNNs of a scenario in one runtime, which the generator closes.

    Raises
    ------
    SwapnetError
        An engine does not load, or a budget is impossible.
    """

    def __init__(
        self,
        job: Job,
        runtime: SwapRuntime | WholeModels,
        say: Say,
        timeline: Timeline | None = None,
    ) -> None:
        self._runtime = runtime
        self._timeline = timeline
        self._names = [engine.entry.name for engine in job.engines]
        self._expected = [Changes(rate_per_s=engine.entry.rate_per_s) for engine in job.engines]
        self._samples = [load_npz(Path(engine.samples)) for engine in job.engines]
        self._digests = OutputDigests(job.known, say)
        self._models = [self._load(engine) for engine in job.engines]
        for budget_bytes in job.budgets:
            runtime.set_budget(budget_bytes)
        if job.budgets:
            runtime.set_budget(job.budget_bytes)

    def _load(self, engine: Engine) -> RuntimeModel | WholeModel:
        start, entry = time.perf_counter(), engine.entry
        model = self._runtime.load(
            Path(engine.folder),
            name=entry.name,
            priority=entry.priority,
            deadline_ms=entry.deadline_ms,
            rate_per_s=entry.rate_per_s,
            shapes=entry.shapes or None,
        )
        if self._timeline is not None:
            self._timeline.recorders[entry.name].opened = start, time.perf_counter()
        return model

    def alone(self, asked: Alone) -> Measured:
        """Run one input while nothing else runs."""
        latency = []
        for _ in range(asked.count):
            start = time.perf_counter()
            outputs = self._submit(asked.model, asked.sample).result()
            latency.append((time.perf_counter() - start) * 1e3)
        return Measured(tuple(latency), self._digests.take(asked.model, asked.sample, outputs))

    def round(self, wanted: Round) -> RoundResult:
        """Run one round of requests, each submitted when it is due.

        Raises
        ------
        SwapnetError
            A change of the budget failed.
        """
        # Requests paused while other processes had their turns: that says nothing of the rates.
        changes: dict[Any, Changes] = dict(zip(self._models, self._expected, strict=True))
        self._runtime.update(changes)
        before = self._read_bytes()
        ended: Queue[_Ended] = Queue(HELD - 1)
        stop = threading.Event()
        with ThreadPoolExecutor(3, thread_name_prefix="traffic") as threads:
            start = time.perf_counter()
            last_s = wanted.arrivals[-1].due_s if wanted.arrivals else 0.0
            moments = threads.submit(self._observe, start, last_s / _MOMENTS, stop)
            try:
                served = threads.submit(self._collect, ended, len(wanted.arrivals))
                changed = threads.submit(self._change, start, wanted.changes)
                for arrival in wanted.arrivals:
                    self._request(start, arrival, ended)
                told, budgets = served.result(), changed.result()
            finally:
                stop.set()
        seconds = time.perf_counter() - start
        read = tuple(now - then for now, then in zip(self._read_bytes(), before, strict=True))
        return RoundResult(told, read, moments.result(), budgets, seconds)

    def close(self, trace: int = 0) -> Ready:
        """Release everything; what was used, and ``trace`` inferences' timeline."""
        peak_bytes = peak_resident_bytes()
        self._runtime.close()
        return Ready(peak_bytes, tuple(self._timeline.events(trace) if self._timeline else ()))

    def _submit(self, model: int, sample: int) -> Future[dict[str, Array]]:
        arrays = self._samples[model].items()
        inputs = {name: array[sample, ...] for name, array in arrays}
        return self._models[model].submit(inputs, copy=False)

    def _request(self, start: float, arrival: Arrival, ended: Queue[_Ended]) -> None:
        due = start + arrival.due_s
        _sleep_until(due)
        try:
            future = self._submit(arrival.model, arrival.sample)
        except SwapnetError as error:
            future = Future()
            future.set_exception(error)
        future.add_done_callback(partial(_end, arrival, due, ended))

    def _collect(self, ended: Queue[_Ended], count: int) -> tuple[Served, ...]:
        return tuple(self._digested(*ended.get()) for _ in range(count))

    def _digested(self, served: Served, outputs: dict[str, Array] | None) -> Served:
        if outputs is None:
            return served
        digest = self._digests.take(served.model, served.sample, outputs)
        return msgspec.structs.replace(served, digest=digest)

    def _change(self, start: float, changes: Sequence[Change]) -> tuple[Changed, ...]:
        done = []
        for change in changes:
            _sleep_until(start + change.at_s)
            began = time.perf_counter()
            self._runtime.set_budget(change.budget_bytes)
            done.append(Changed(began - start, change.budget_bytes, _ms_since(began)))
        return tuple(done)

    def _observe(self, start: float, every_s: float, stop: threading.Event) -> tuple[Moment, ...]:
        """The runtime's state at the beginning, now and then, and at the end."""
        moments = [self._moment(start)]
        while not stop.wait(max(every_s, _SHORTEST_S)):
            moments.append(self._moment(start))
        return (*moments, self._moment(start))

    def _moment(self, start: float) -> Moment:
        time_s = time.perf_counter() - start
        waiting = tuple(model.stats.waiting for model in self._models)
        shares = self._runtime.shares_bytes
        shares_bytes = tuple(shares.get(name, 0) for name in self._names)
        return Moment(time_s, self._runtime.budget_bytes, shares_bytes, waiting)

    def _read_bytes(self) -> tuple[int, ...]:
        return tuple(model.stats.read_bytes for model in self._models)


_Ended = tuple[Served, dict[str, Array] | None]
"""A request, and its outputs; None where it failed."""


def _end(
    arrival: Arrival, due: float, ended: Queue[_Ended], future: Future[dict[str, Array]]
) -> None:
    """Note the end of a request; waits while outputs of others are compared."""
    latency_ms, error = _ms_since(due), future.exception()
    words = "" if error is None else " ".join(f"{type(error).__name__}: {error}".split())
    served = Served(arrival.model, arrival.sample, arrival.due_s, latency_ms, error=words)
    ended.put((served, future.result() if error is None else None))


def _sleep_until(time_s: float) -> None:
    if (left := time_s - time.perf_counter()) > 0:
        time.sleep(left)


def _ms_since(time_s: float) -> float:
    return (time.perf_counter() - time_s) * 1e3
