"""Several DNNs on a virtual clock: the scheduler of a device, with delays instead of work.

One storage channel serves one read at a time, compute lanes serve one step each; both take the most
urgent request by the ranks of one `ReadyQueue`, and are never interrupted within a read or a step.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from math import ceil, inf
from typing import TYPE_CHECKING

import numpy as np

from swapnet.executor.runtime.policy import PATIENCE_S, Job, Policy, Ranks, ReadyQueue

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["Outcome", "SimulatedModel", "simulate"]

_ROUNDING = 1e-9

_NONE = (inf, -1)
"""No request comes any more."""


@dataclass(frozen=True)
class SimulatedModel:
    """One DNN and what is asked of it.

    Attributes
    ----------
    name
        Unique.
    compute_ms
        Time of one inference on one lane, on weights that are in memory.
    read_ms
        Time to stream one inference's weights from storage that does nothing else.
    prefetch_ms
        Part of ``read_ms`` that its ring holds. Reading may run ahead of computing by it, also
        before the request comes; in whole steps, at least one and at most all.
    steps
        Equal ones, of computing and of reading; the first must be read before it is computed.
    priority
        Weight of its latency.
    deadline_ms
        Time from a request's arrival; None for no deadline.
    rate_per_s
        Expected requests, which order reads before a request comes.
    """

    name: str
    compute_ms: float
    read_ms: float = 0.0
    prefetch_ms: float = 0.0
    steps: int = 1
    priority: float = 1.0
    deadline_ms: float | None = None
    rate_per_s: float = 0.0


@dataclass(frozen=True)
class Outcome:
    """Result of a simulation.

    Attributes
    ----------
    models
        As given.
    latencies_ms
        Latencies of each model's requests in order, from arrival to the end of the last step.
    misses
        Requests of each model that ended after their deadline.
    compute_utilisation, storage_utilisation
        Busy share of lanes and of the channel, until the last request has ended.
    simulated_s
        Virtual time until the last request has ended.
    """

    models: tuple[SimulatedModel, ...]
    latencies_ms: tuple[npt.NDArray[np.float64], ...]
    misses: tuple[int, ...]
    compute_utilisation: float
    storage_utilisation: float
    simulated_s: float

    @property
    def weighted_latency_ms(self) -> float:
        """Mean over requests, each as often as its priority says; 0 without requests."""
        pairs = list(zip(self.models, self.latencies_ms, strict=True))
        weights = sum(model.priority * len(latencies) for model, latencies in pairs)
        total = sum(model.priority * float(latencies.sum()) for model, latencies in pairs)
        return _share(total, weights)


def simulate(
    models: Sequence[SimulatedModel],
    arrivals: Iterable[tuple[float, int]],
    *,
    policy: Policy | str = Policy.DEADLINE,
    lanes: int = 1,
) -> Outcome:
    """Serve requests on a virtual clock.

    Requests of one model are served one after the other. A step starts when a lane is free, its
    bytes have been read and no more urgent request could start; a read starts when the channel is
    free, the model's ring has room and no more urgent request has one. What nobody has asked for
    yet is read last, for the model whose next request is expected first.

    Parameters
    ----------
    models
        The DNNs.
    arrivals
        Time in seconds and position of the model, by time. Taken one at a time.
    policy
        The order of requests.
    lanes
        Steps that may be computed at once.

    Raises
    ------
    InputError
        There is no such policy.
    ValueError
        Arrivals are not in order, or a model has no step.
    """
    return _Device(models, policy, lanes).run(arrivals)


class _Served:
    """A model while it is simulated. Reads and steps are counted from the beginning of time."""

    def __init__(self, index: int, model: SimulatedModel) -> None:
        if model.steps < 1 or model.compute_ms < 0 or model.read_ms < 0:
            raise ValueError(f"{model.name} needs at least one step, and no negative time")
        self.index = index
        self.model = model
        self.steps = self.left = model.steps
        self.step_s = model.compute_ms / model.steps / 1e3
        self.read_s = model.read_ms / model.steps / 1e3
        self.ahead = 1
        """Reads that the ring holds."""
        if self.read_s:
            part = min(model.prefetch_ms / model.read_ms, 1.0)
            self.ahead = max(ceil(part * model.steps - _ROUNDING), 1)
        self.patience_s = PATIENCE_S if model.deadline_ms is None else model.deadline_ms / 1e3
        self.service_ms = max(model.compute_ms, model.read_ms)
        self.period_s = 1 / model.rate_per_s if model.rate_per_s else inf
        self.expected_s = self.period_s
        """Expected time of the next request."""
        self.jobs: deque[Job] = deque()
        """Requests that have not ended."""
        self.finished = self.misses = self.read = self.stepped = 0
        self.at_compute = False
        """True while its first request waits for a lane, or has one."""
        self.at_storage = False
        """True while it waits for the channel because of a request, or has it."""
        self.listed = False
        """True while it is among those that could read before a request comes."""

    @property
    def has_room(self) -> bool:
        """The ring has room for another read."""
        return self.read < self.stepped + self.ahead


class _Device:
    """One storage channel and some lanes."""

    def __init__(self, models: Sequence[SimulatedModel], policy: Policy | str, lanes: int) -> None:
        self._models = tuple(models)
        self._served = [_Served(index, model) for index, model in enumerate(self._models)]
        self._by_name = {served.model.name: served for served in self._served}
        self._ranks = Ranks(policy)
        self._ready = ReadyQueue(self._ranks)
        """Requests whose next step could be computed."""
        self._reads = ReadyQueue(self._ranks)
        """Requests for which something could be read."""
        self._idle: list[tuple[float, int]] = []
        """Models that could read before a request comes, by the time they expect it."""
        self._lanes = lanes
        self._computing: list[tuple[float, int, _Served]] = []
        self._reading: _Served | None = None
        self._read_end_s = inf
        self._now_s = 0.0
        self._sequence = self._started = self._waiting = 0
        self._compute_s = self._storage_s = 0.0
        self._which = array("q")
        self._latencies = array("d")

    def run(self, arrivals: Iterable[tuple[float, int]]) -> Outcome:
        """Serve all requests, until the last one has ended."""
        coming, computing = iter(arrivals), self._computing
        arrival_s, which = next(coming, _NONE)
        for served in self._served:
            self._ask_read(served)
        self._dispatch()
        while arrival_s < inf or self._waiting:
            step_end_s = computing[0][0] if computing else inf
            handle: Callable[[_Served], None]
            if arrival_s <= step_end_s and arrival_s <= self._read_end_s:
                if arrival_s < self._now_s:
                    raise ValueError(f"a request of {arrival_s} s comes at {self._now_s} s")
                self._now_s, served, handle = arrival_s, self._served[which], self._arrive
                arrival_s, which = next(coming, _NONE)
            elif step_end_s <= self._read_end_s:
                self._now_s, _, served = heappop(computing)
                handle = self._end_step
            else:
                assert self._reading is not None
                self._now_s, served, handle = self._read_end_s, self._reading, self._end_read
            handle(served)
            self._dispatch()
        return self._outcome()

    def _arrive(self, served: _Served) -> None:
        now_s, model = self._now_s, served.model
        self._sequence = sequence = self._sequence + 1
        job = Job(
            model.name,
            sequence,
            now_s,
            now_s + served.patience_s,
            model.priority,
            served.service_ms,
        )
        self._ranks.rank(job)
        served.jobs.append(job)
        served.expected_s = now_s + served.period_s
        self._waiting += 1
        self._make_ready(served)
        self._ask_read(served)

    def _end_step(self, served: _Served) -> None:
        self._compute_s += served.step_s
        served.at_compute = False
        served.stepped += 1
        served.left -= 1
        if not served.left:
            job = served.jobs.popleft()
            self._ranks.done(job)
            self._waiting -= 1
            served.finished += 1
            served.left = served.steps
            self._which.append(served.index)
            self._latencies.append(self._now_s - job.arrival_s)
            if served.model.deadline_ms is not None:
                served.misses += self._now_s > job.deadline_s + _ROUNDING
        self._make_ready(served)
        self._ask_read(served)

    def _end_read(self, served: _Served) -> None:
        self._storage_s += served.read_s
        self._reading, self._read_end_s = None, inf
        served.at_storage = False
        served.read += 1
        self._make_ready(served)
        self._ask_read(served)

    def _make_ready(self, served: _Served) -> None:
        """Let the first request wait for a lane, if the bytes of its next step are there."""
        if served.at_compute or not served.jobs:
            return
        if served.read > served.stepped or not served.read_s:
            served.at_compute = True
            self._ready.add(served.jobs[0])

    def _ask_read(self, served: _Served) -> None:
        """Let the model wait for the channel, if its ring has room."""
        if served.at_storage or not served.read_s or not served.has_room:
            return
        request = served.read // served.steps - served.finished
        if request < len(served.jobs):
            served.at_storage = True
            self._reads.add(served.jobs[request])
        elif not served.listed:
            served.listed = True
            heappush(self._idle, (served.expected_s, served.index))

    def _dispatch(self) -> None:
        """Give free lanes and a free channel to the first request in each queue."""
        ready, computing = self._ready, self._computing
        while len(computing) < self._lanes and ready:
            served = self._by_name[ready.pop().model]
            self._started = entry = self._started + 1
            heappush(computing, (self._now_s + served.step_s, entry, served))
        if self._reading is None:
            reading = self._by_name[self._reads.pop().model] if self._reads else self._expected()
            if reading is not None:
                reading.at_storage = True
                self._reading = reading
                self._read_end_s = self._now_s + reading.read_s

    def _expected(self) -> _Served | None:
        """The model with the first expected request, among those that could read for it."""
        while self._idle:
            expected_s, index = heappop(self._idle)
            served = self._served[index]
            served.listed = False
            if expected_s < served.expected_s:
                self._ask_read(served)
            elif served.has_room:
                return served
        return None

    def _outcome(self) -> Outcome:
        which = np.array(self._which, np.int64)
        latencies_ms = np.array(self._latencies, np.float64) * 1e3
        order = np.argsort(which, kind="stable")
        ends = np.cumsum(np.bincount(which, minlength=len(self._models)))[:-1]
        by_model = np.split(latencies_ms[order], ends) if self._models else []
        return Outcome(
            models=self._models,
            latencies_ms=tuple(by_model),
            misses=tuple(served.misses for served in self._served),
            compute_utilisation=_share(self._compute_s, self._now_s * self._lanes),
            storage_utilisation=_share(self._storage_s, self._now_s),
            simulated_s=self._now_s,
        )


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
