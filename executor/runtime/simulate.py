"""Several DNNs on a virtual clock: the scheduler of a runtime, with delays instead of work.

One storage channel serves one read at a time, compute lanes serve one step each. Neither is
interrupted within a read or a step.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import chain
from math import ceil, inf

import numpy as np

from swapnet.executor.runtime.arrivals import Times
from swapnet.executor.runtime.objectives import Objectives
from swapnet.executor.runtime.policy import Job, Policy
from swapnet.executor.runtime.scheduler import Instruction, Scheduler

__all__ = ["SimulatedModel", "simulate"]

_ROUNDING = 1e-9


@dataclass(frozen=True)
class SimulatedModel(Objectives):
    """One DNN and its objectives; its rate orders reads before a request comes.

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
    """

    name: str
    compute_ms: float
    read_ms: float = 0.0
    prefetch_ms: float = 0.0
    steps: int = 1


def simulate(
    models: Sequence[SimulatedModel],
    arrivals: Iterable[tuple[float, int]],
    *,
    policy: Policy | str = Policy.DEADLINE,
    lanes: int = 1,
) -> tuple[Times, ...]:
    """Serve requests on a virtual clock.

    What is served, computed and read is decided by `swapnet.executor.runtime.scheduler`, with one
    reader. Requests are not joined.

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

    Returns
    -------
    tuple of ndarray of float64, shape (requests,)
        Latencies of each model's requests in milliseconds, in order: from arrival to the end of the
        last step.

    Raises
    ------
    InputError
        There is no such policy.
    ValueError
        Arrivals are not in order, or a model has no step.
    """
    return _Device(models, policy, lanes).run(arrivals)


class _Simulated:
    """A model while it is simulated."""

    def __init__(self, model: SimulatedModel) -> None:
        if model.steps < 1 or model.compute_ms < 0 or model.read_ms < 0:
            raise ValueError(f"{model.name} needs at least one step, and no negative time")
        steps = range(model.steps)
        self.model = model
        self.name = model.name
        self.step_s = model.compute_ms / model.steps / 1e3
        self.read_s = model.read_ms / model.steps / 1e3
        self.needs: tuple[int, ...] = (0,) * model.steps
        self.afters: tuple[int, ...] = ()
        if self.read_s:
            part = min(model.prefetch_ms / model.read_ms, 1.0)
            ahead = max(ceil(part * model.steps - _ROUNDING), 1)
            self.needs = tuple(step + 1 for step in steps)
            self.afters = tuple(step - ahead for step in steps)
        self.service_ms = max(model.compute_ms, model.read_ms)
        self.left = model.steps
        """Steps of the inference that is computed, or comes next."""
        self.jobs: deque[Job] = deque()
        """Requests that have not ended."""
        self.latencies_ms: list[float] = []


class _Device:
    """Lanes and a storage channel that take the time they are said to."""

    def __init__(self, models: Sequence[SimulatedModel], policy: Policy | str, lanes: int) -> None:
        self._simulated = list(map(_Simulated, models))
        self._by_name = {each.name: each for each in self._simulated}
        self._scheduler = Scheduler(policy, lanes=lanes)
        self._computing: list[tuple[float, int, _Simulated]] = []
        self._reading: list[tuple[float, _Simulated, int]] = []
        self._now_s = 0.0
        self._sequence = self._started = self._waiting = 0

    def run(self, arrivals: Iterable[tuple[float, int]]) -> tuple[Times, ...]:
        """Serve all requests, until the last one has ended."""
        scheduler, computing, reading = self._scheduler, self._computing, self._reading
        coming = chain(arrivals, [(inf, -1)])
        arrival_s, which = next(coming)
        for each in self._simulated:
            self._begin(scheduler.loaded(each.name, 0.0, each.model.rate_per_s))
            self._begin(scheduler.planned(each.name, 0, each.needs, each.afters))
        while arrival_s < inf or self._waiting:
            step_end_s = computing[0][0] if computing else inf
            read_end_s = reading[0][0] if reading else inf
            if arrival_s <= step_end_s and arrival_s <= read_end_s:
                if arrival_s < self._now_s:
                    raise ValueError(f"a request of {arrival_s} s comes at {self._now_s} s")
                self._now_s = arrival_s
                self._begin(scheduler.asked(self._job(self._simulated[which])))
                arrival_s, which = next(coming)
            elif step_end_s <= read_end_s:
                self._now_s, _, each = heappop(computing)
                self._end_step(each)
            else:
                self._now_s, each, number = reading.pop()
                self._begin(scheduler.landed(each.name, 0, number))
        return tuple(np.array(each.latencies_ms) for each in self._simulated)

    def _begin(self, told: Sequence[Instruction]) -> None:
        """Begin what the scheduler says."""
        for do, name, numbers in told:
            each = self._by_name[name]
            if do == "step":
                self._started = entry = self._started + 1
                heappush(self._computing, (self._now_s + each.step_s, entry, each))
            elif do == "read":
                self._reading.append((self._now_s + each.read_s, each, numbers[0]))
            else:
                self._begin(self._scheduler.began(name))

    def _job(self, each: _Simulated) -> Job:
        self._sequence += 1
        self._waiting += 1
        now_s, weight = self._now_s, each.model.priority
        job = Job(
            each.name, self._sequence, now_s, now_s + each.model.patience_s, weight, each.service_ms
        )
        each.jobs.append(job)
        return job

    def _end_step(self, each: _Simulated) -> None:
        each.left -= 1
        self._begin(self._scheduler.ended(each.name, 0))
        if not each.left:
            each.left = each.model.steps
            job = each.jobs.popleft()
            self._waiting -= 1
            each.latencies_ms.append((self._now_s - job.arrival_s) * 1e3)
            self._begin(self._scheduler.done(each.name))
