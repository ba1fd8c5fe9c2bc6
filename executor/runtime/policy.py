"""The order of requests: a rank for each, and a queue in the order of ranks.

A rank never changes, whatever happens after a request has come: a heap keeps the order, and a
decision costs O(log n). Two queues that share their `Ranks` (one for compute, one for storage)
agree about which request is more urgent.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from heapq import heapify, heappop, heappush
from math import isfinite

from swapnet.errors import InputError

__all__ = ["PATIENCE_S", "Job", "Policy", "Ranks", "ReadyQueue"]

PATIENCE_S = 10.0
"""Time after which a request without a deadline is the most urgent one of all."""

_LEAST_MS = 1e-3
"""Least service of a request: with none, a model would always go before the others."""

_FEW = 64
"""Entries that are kept without a look at whether they are still of use."""


class Policy(str, Enum):
    """The order in which requests are served.

    ``DEADLINE``: the earliest deadline first; those of the same millisecond share in proportion
    to their weights. ``FIRST_COME``: as they come. ``FAIR``: in proportion to weights alone.
    ``SHORTEST``: the least service for its weight first, which may keep others waiting for ever.
    """

    DEADLINE = "deadline"
    FIRST_COME = "first-come"
    FAIR = "fair"
    SHORTEST = "shortest"


@dataclass(frozen=True, slots=True)
class Job:
    """One request.

    Attributes
    ----------
    model
        Name of the DNN.
    sequence
        Unique, and larger than those of earlier requests.
    arrival_s, deadline_s
        Times on the caller's clock. The deadline is finite: without one, it is `PATIENCE_S` after
        the arrival.
    weight
        Priority of the model, above 0.
    service_ms
        Expected, if nothing else ran.
    """

    model: str
    sequence: int
    arrival_s: float
    deadline_s: float
    weight: float
    service_ms: float


class Ranks:
    """Gives every request its rank, once, when it is first asked for.

    Raises
    ------
    InputError
        There is no such policy.

    Notes
    -----
    Shares are those of start-time fair queueing (Goyal, Vin, Cheng, SIGCOMM'96): a request's start
    tag is the larger of virtual time and of the finish tag of its model's request before it; the
    finish tag is later by service over weight; virtual time is the largest start tag served so far.
    A model that was idle gains no credit, and one that has had more than its share waits until the
    others have caught up. With ``FAIR``, while two models have requests waiting, what each was
    served over its weight differs by at most one request of each.
    """

    def __init__(self, policy: Policy | str = Policy.DEADLINE) -> None:
        try:
            self.policy = Policy(policy)
        except ValueError:
            raise InputError(
                f"there is no policy {policy}",
                why=f"the policies are {', '.join(known.value for known in Policy)}",
                hint="choose one of them",
            ) from None
        self._order = _ORDERS[self.policy]
        self._ranks: dict[int, tuple[float, ...]] = {}
        self._starts: dict[int, float] = {}
        self._finish: dict[str, float] = {}
        """Finish tag of the latest request, by model."""
        self._virtual = 0.0
        self._many = _FEW

    def rank(self, job: Job) -> tuple[float, ...]:
        """Smaller goes first; no two requests have the same rank.

        Raises
        ------
        ValueError
            The deadline or the service is not finite, or the weight is not above 0.
        """
        found = self._ranks.get(job.sequence)
        if found is not None:
            return found
        finite = isfinite(job.deadline_s) and isfinite(job.service_ms)
        if not (finite and job.service_ms >= 0 and job.weight > 0):
            raise ValueError(f"{job} has no finite deadline or service, or no weight")
        start = max(self._virtual, self._finish.get(job.model, 0.0))
        self._finish[job.model] = start + max(job.service_ms, _LEAST_MS) / job.weight
        if len(self._finish) > self._many:
            self._forget_idle()
        rank = self._order(job, start)
        self._starts[job.sequence] = start
        self._ranks[job.sequence] = rank
        return rank

    def serve(self, job: Job) -> None:
        """Serve this request next: virtual time goes on."""
        start = self._starts.get(job.sequence, 0.0)
        if start > self._virtual:
            self._virtual = start

    def done(self, job: Job) -> None:
        """The request has ended: its rank is forgotten."""
        self._ranks.pop(job.sequence, None)
        self._starts.pop(job.sequence, None)

    def _forget_idle(self) -> None:
        """Tags that lie before virtual time change nothing any more."""
        self._finish = {name: tag for name, tag in self._finish.items() if tag > self._virtual}
        self._many = max(2 * len(self._finish), _FEW)


class ReadyQueue:
    """Requests that wait, the most urgent one first. Not thread-safe.

    A request that was popped may be added again, for its next step, and keeps its rank until
    `done` is called. ``policy`` may be the ranks of another queue.
    """

    def __init__(self, policy: Ranks | Policy | str = Policy.DEADLINE) -> None:
        self.ranks = policy if isinstance(policy, Ranks) else Ranks(policy)
        self._heap: list[tuple[tuple[float, ...], int, Job]] = []
        self._waiting: dict[int, int] = {}
        """Entry of each waiting request; others in the heap are of requests that were removed."""
        self._entries = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def __contains__(self, job: Job) -> bool:
        return job.sequence in self._waiting

    def rank(self, job: Job) -> tuple[float, ...]:
        return self.ranks.rank(job)

    def add(self, job: Job) -> None:
        """Let a request wait.

        Raises
        ------
        ValueError
            The request is waiting already, or `Ranks.rank` refuses it.
        """
        if job.sequence in self._waiting:
            raise ValueError(f"{job} is waiting already")
        rank = self.ranks.rank(job)
        self._entries = entry = self._entries + 1
        heappush(self._heap, (rank, entry, job))
        self._waiting[job.sequence] = entry

    def first(self) -> Job | None:
        """The most urgent request; it goes on waiting."""
        heap, waiting = self._heap, self._waiting
        while heap:
            _, entry, job = heap[0]
            if waiting.get(job.sequence) == entry:
                return job
            heappop(heap)
        return None

    def pop(self) -> Job:
        """Take the most urgent request out: it is served next.

        Raises
        ------
        IndexError
            No request is waiting.
        """
        job = self.first()
        if job is None:
            raise IndexError("nothing is waiting")
        heappop(self._heap)
        del self._waiting[job.sequence]
        self.ranks.serve(job)
        return job

    def remove(self, job: Job) -> None:
        """Let a request not wait any more.

        Raises
        ------
        KeyError
            The request is not waiting.
        """
        del self._waiting[job.sequence]
        if len(self._heap) > 2 * len(self._waiting) + _FEW:
            self._heap = [e for e in self._heap if self._waiting.get(e[2].sequence) == e[1]]
            heapify(self._heap)

    def done(self, job: Job) -> None:
        """The request has ended, or was given up; its rank is forgotten."""
        if job.sequence in self._waiting:
            self.remove(job)
        self.ranks.done(job)


_ORDERS: dict[Policy, Callable[[Job, float], tuple[float, ...]]] = {
    Policy.DEADLINE: lambda job, start: (round(job.deadline_s * 1e3), start, job.sequence),
    Policy.FIRST_COME: lambda job, _: (job.arrival_s, job.sequence),
    Policy.FAIR: lambda job, start: (start, job.sequence),
    Policy.SHORTEST: lambda job, _: (job.service_ms / job.weight, job.sequence),
}
"""Rank of a request, by its start tag."""
