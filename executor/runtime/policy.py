"""The order of requests: a rank for each, which never changes once the request has come."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from enum import Enum
from math import isfinite
from typing import NamedTuple

from swapnet.errors import InputError

__all__ = ["PATIENCE_S", "Job", "Policy", "Ranked", "Ranks"]

PATIENCE_S = 10.0
"""Time after which a request without a deadline is the most urgent one of all."""

_LEAST_MS = 1e-3
"""Least service of a request: with none, a model would always go before the others."""


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


class Job(NamedTuple):
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
    rows, kind
        Rows of its arrays, and what requests have in common that can be joined; None for none.
    """

    model: str
    sequence: int
    arrival_s: float
    deadline_s: float
    weight: float
    service_ms: float
    rows: int = 1
    kind: Hashable = None


class Ranked(NamedTuple):
    """A request with its rank, by which it is compared: smaller goes first, none are equal."""

    rank: tuple[float, ...]
    start: float
    job: Job


class Ranks:
    """Gives every request its rank.

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
        self._finish: dict[str, float] = {}
        """Finish tag of the latest request, by model."""
        self._virtual = 0.0

    def rank(self, job: Job) -> Ranked:
        """The rank of a request that comes.

        Raises
        ------
        ValueError
            The deadline or the service is not finite, or the weight is not above 0.
        """
        finite = isfinite(job.deadline_s) and isfinite(job.service_ms)
        if not (finite and job.service_ms >= 0 and job.weight > 0):
            raise ValueError(f"{job} has no finite deadline or service, or no weight")
        start = max(self._virtual, self._finish.get(job.model, 0.0))
        self._finish[job.model] = start + max(job.service_ms, _LEAST_MS) / job.weight
        return Ranked(self._order(job, start), start, job)

    def serve(self, start: float) -> None:
        """Serve a request of this start tag next: virtual time goes on."""
        if start > self._virtual:
            self._virtual = start

    def forget(self, model: str) -> None:
        """The model is gone."""
        self._finish.pop(model, None)


_ORDERS: dict[Policy, Callable[[Job, float], tuple[float, ...]]] = {
    Policy.DEADLINE: lambda job, start: (round(job.deadline_s * 1e3), start, job.sequence),
    Policy.FIRST_COME: lambda job, _: (job.arrival_s, job.sequence),
    Policy.FAIR: lambda job, start: (start, job.sequence),
    Policy.SHORTEST: lambda job, _: (job.service_ms / job.weight, job.sequence),
}
"""Rank of a request, by its start tag."""
