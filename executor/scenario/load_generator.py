"""Asks all DNNs of a scenario, in one runtime, each request when it is due."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from queue import Queue
from typing import Any, NamedTuple, Protocol

from swapnet.arrays import Array, load_npz
from swapnet.errors import SwapnetError
from swapnet.executor.events import Event
from swapnet.executor.pace import Pace
from swapnet.executor.report.trace import Recorder, TraceEvent, trace_events
from swapnet.executor.runtime.model import ModelStats
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

__all__ = ["LoadGenerator", "Model", "Runtime", "open_generator"]

_MOMENTS = 100
"""Number of moments in a round, about."""

_SHORTEST_S = 0.02
"""Shortest time between two moments."""


class Model(Protocol):
    """A DNN of a runtime."""

    @property
    def stats(self) -> ModelStats: ...

    def submit(
        self, inputs: Mapping[str, Any], *, copy: bool = ...
    ) -> Future[dict[str, Array]]: ...


class Runtime(Protocol):
    """The runtime to measure: `swapnet.SwapRuntime`, or one like it."""

    @property
    def budget_bytes(self) -> int: ...

    @property
    def shares_bytes(self) -> Mapping[str, int]: ...

    def load(
        self,
        folder: Path,
        *,
        name: str,
        priority: float,
        deadline_ms: float | None,
        rate_per_s: float,
        shapes: Mapping[str, Sequence[int]] | None,
    ) -> Model: ...

    def update(self, changes: Mapping[Any, Changes]) -> None: ...

    def set_budget(self, budget: int) -> None: ...

    def close(self) -> None: ...


def open_generator(job: Job, say: Say) -> LoadGenerator:
    """The load generator of a process of our own."""
    from swapnet.executor.engine import Engine
    from swapnet.executor.runtime import SwapRuntime
    from swapnet.executor.scenario.baselines import WHOLE_MODEL, WholeModels

    device = Engine.open(job.engines[0].folder).on_threads(job.threads, own=True).device
    if job.storage_bytes_per_s is not None:
        device = replace(device, pace=Pace(job.storage_bytes_per_s))
    recorders = {engine.name: Recorder(engine.name, job.trace) for engine in job.engines}
    runtime: Runtime
    if job.split == WHOLE_MODEL:
        runtime = WholeModels(job.budget_bytes, device=device, lanes=job.lanes)
    else:
        runtime = SwapRuntime(
            job.budget_bytes,
            device=device,
            split=job.split,
            lanes=job.lanes,
            trace=job.trace > 0,
            on_event=partial(_record, recorders) if job.trace else None,
        )
    try:
        return LoadGenerator(job, runtime, say, recorders)
    except BaseException:
        runtime.close()
        raise


def _record(recorders: Mapping[str, Recorder], event: Event) -> None:
    if event.inference is not None and event.plan is not None:
        recorders[event.model].note(event.plan, event.inference)


class LoadGenerator:
    """All DNNs of a scenario in one runtime, which the generator closes.

    Raises
    ------
    SwapnetError
        An engine does not load, or a budget is impossible.
    """

    def __init__(
        self, job: Job, runtime: Runtime, say: Say, recorders: Mapping[str, Recorder] | None = None
    ) -> None:
        self._runtime = runtime
        self._recorders = recorders or {}
        self._names = [engine.name for engine in job.engines]
        self._expected = [Changes(rate_per_s=engine.rate_per_s) for engine in job.engines]
        self._samples = [load_npz(Path(engine.samples)) for engine in job.engines]
        self._digests = OutputDigests(job.known, say)
        self._models = [self._load(engine) for engine in job.engines]
        for budget_bytes in job.budgets:
            runtime.set_budget(budget_bytes)
        if job.budgets:
            runtime.set_budget(job.budget_bytes)

    def _load(self, engine: Engine) -> Model:
        start = time.perf_counter()
        model = self._runtime.load(
            Path(engine.folder),
            name=engine.name,
            priority=engine.priority,
            deadline_ms=engine.deadline_ms,
            rate_per_s=engine.rate_per_s,
            shapes=engine.shapes,
        )
        if engine.name in self._recorders:
            self._recorders[engine.name].opened = start, time.perf_counter()
        return model

    def ready(self) -> Ready:
        """The memory used so far."""
        return Ready(peak_resident_bytes())

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
        self._forget_pause()
        before = self._read_bytes()
        moments: list[Moment] = []
        ended: Queue[_Ended] = Queue(HELD - 1)
        with ThreadPoolExecutor(2, thread_name_prefix="traffic") as threads:
            start = time.perf_counter()
            with self._observed(start, wanted, moments):
                served = threads.submit(self._collect, ended, len(wanted.arrivals))
                changed = threads.submit(self._change, start, wanted.changes)
                for arrival in wanted.arrivals:
                    self._request(start, arrival, ended)
                told, changes = served.result(), changed.result()
        seconds = time.perf_counter() - start
        read = tuple(now - then for now, then in zip(self._read_bytes(), before, strict=True))
        return RoundResult(told, read, tuple(moments), changes, seconds)

    def trace(self, count: int) -> list[TraceEvent]:
        """The timeline from the last ``count`` inferences of any DNN on."""
        return trace_events([*self._recorders.values()], count)

    def close(self) -> None:
        """Release everything."""
        self._runtime.close()

    def _forget_pause(self) -> None:
        # Requests paused while other processes had their turns, which says nothing of the rates.
        self._runtime.update(dict(zip(self._models, self._expected, strict=True)))

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
            ended.put(_Ended(arrival, _ms_since(due), None, error))
            return
        future.add_done_callback(partial(_end, arrival, due, ended))

    def _collect(self, ended: Queue[_Ended], count: int) -> tuple[Served, ...]:
        return tuple(self._served(ended.get()) for _ in range(count))

    def _served(self, ended: _Ended) -> Served:
        arrival, latency_ms, outputs, error = ended
        model, sample = arrival.model, arrival.sample
        if outputs is None:
            return Served(model, sample, arrival.due_s, latency_ms, error=_in_words(error))
        digest = self._digests.take(model, sample, outputs)
        return Served(model, sample, arrival.due_s, latency_ms, digest)

    def _change(self, start: float, changes: Sequence[Change]) -> tuple[Changed, ...]:
        done = []
        for change in changes:
            _sleep_until(start + change.at_s)
            began = time.perf_counter()
            self._runtime.set_budget(change.budget_bytes)
            done.append(Changed(began - start, change.budget_bytes, _ms_since(began)))
        return tuple(done)

    @contextmanager
    def _observed(self, start: float, wanted: Round, moments: list[Moment]) -> Iterator[None]:
        """Note the runtime's state at the beginning, now and then, and at the end."""
        last_s = wanted.arrivals[-1].due_s if wanted.arrivals else 0.0
        every_s = max(last_s / _MOMENTS, _SHORTEST_S)
        stop = threading.Event()

        def observe() -> None:
            while not stop.wait(every_s):
                moments.append(self._moment(time.perf_counter() - start))

        thread = threading.Thread(target=observe, name="traffic-moments")
        moments.append(self._moment(time.perf_counter() - start))
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
        moments.append(self._moment(time.perf_counter() - start))

    def _moment(self, time_s: float) -> Moment:
        waiting = tuple(model.stats.waiting for model in self._models)
        return Moment(time_s, self._runtime.budget_bytes, self._shares_bytes(), waiting)

    def _shares_bytes(self) -> tuple[int, ...]:
        shares_bytes = self._runtime.shares_bytes
        return tuple(shares_bytes.get(name, 0) for name in self._names)

    def _read_bytes(self) -> tuple[int, ...]:
        return tuple(model.stats.read_bytes for model in self._models)


class _Ended(NamedTuple):
    """A request, what it took, and its outputs or what failed."""

    arrival: Arrival
    latency_ms: float
    outputs: dict[str, Array] | None
    error: BaseException | None


def _end(
    arrival: Arrival, due: float, ended: Queue[_Ended], future: Future[dict[str, Array]]
) -> None:
    """Note the end of a request; waits while outputs of others are compared."""
    latency_ms = _ms_since(due)
    error = future.exception()
    ended.put(_Ended(arrival, latency_ms, None if error else future.result(), error))


def _sleep_until(time_s: float) -> None:
    if (left := time_s - time.perf_counter()) > 0:
        time.sleep(left)


def _ms_since(time_s: float) -> float:
    return (time.perf_counter() - time_s) * 1e3


def _in_words(error: BaseException | None) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())
