"""The cost of shares in a simulation: the formula leaves out waiting for the processor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil

from swapnet.executor.runtime.arrivals import poisson
from swapnet.executor.runtime.policy import Policy
from swapnet.executor.runtime.simulate import SimulatedModel, simulate
from swapnet.executor.runtime.split import Claim, Option, fitting

__all__ = ["MOST_CLAIMS", "simulated_cost", "simulated_model"]

MOST_CLAIMS = 32
"""Most engines to simulate: with more, each is asked too seldom."""

_REQUESTS = 800
"""Simulated, of all engines together: milliseconds of work, beside inferences that run."""

_STEP_MS = 10.0
"""Aim for one step of computing, as `swapnet.executor.runtime.engine_curve.OPTIONS` have."""

_MOST_STEPS = 64
"""Limit of an inference: with more, a simulation would take too long."""

_MOST_READS = 24
"""Limit of steps that are made for the sake of reading."""

_RING_READS = 2
"""A ring holds what is computed with and what is read meanwhile, so that both go on; what a smaller
one takes longer is in the option's latency."""

_LEAST_MS = 1e-3
"""Least time that a ring holds: an empty one can't be divided by."""

_SEED = 0


def simulated_cost(
    claims: Sequence[Claim],
    shares_bytes: Mapping[str, int],
    *,
    lanes: int = 1,
    policy: Policy | str = Policy.DEADLINE,
) -> float:
    """Mean latency of some hundred requests: weighted by priority, urgent where it is late.

    Parameters
    ----------
    claims
        The engines; requests come as Poisson processes of their rates, for all splits the same.
    shares_bytes
        Share of each engine, by name.
    lanes, policy
        As in `swapnet.executor.runtime.simulate.simulate`.

    Returns
    -------
    float
        Weighted milliseconds. A latency L counts L / deadline times beyond the deadline, as in
        `swapnet.executor.runtime.split.cost_of`. 0 where nothing is asked.
    """
    models = [simulated_model(claim, fitting(claim, shares_bytes[claim.name])) for claim in claims]
    arrivals = poisson([claim.rate_per_s for claim in claims], _REQUESTS, _SEED)
    found = simulate(models, arrivals, lanes=lanes, policy=policy)
    cost = weights = 0.0
    for claim, latencies in zip(claims, found, strict=True):
        late = latencies / claim.deadline_ms if claim.deadline_ms else 0.0 * latencies
        cost += claim.priority * float((latencies * late.clip(1.0)).sum())
        weights += claim.priority * len(latencies)
    return cost / weights if weights else 0.0


def simulated_model(claim: Claim, option: Option) -> SimulatedModel:
    """An engine with one of its options, on the virtual clock.

    Parameters
    ----------
    claim
        The engine; its fastest option gives the time of computing.
    option
        The engine's use of its share.

    Notes
    -----
    A request that meets no other takes the option's latency: what that exceeds the slower of
    computing and reading by counts as computing. A ring that is smaller than `_RING_READS` steps
    holds up to ``_RING_READS / _MOST_READS`` of all reads more here than it does.
    """
    compute_ms = min(each.latency_ms for each in claim.options)
    extra_ms = option.latency_ms - max(compute_ms, option.reading_ms)
    steps = _steps(compute_ms, option)
    return SimulatedModel(
        name=claim.name,
        compute_ms=compute_ms + max(extra_ms, 0.0),
        read_ms=option.reading_ms,
        prefetch_ms=max(option.prefetch_ms, min(_RING_READS / steps, 1.0) * option.reading_ms),
        steps=steps,
        priority=claim.priority,
        deadline_ms=claim.deadline_ms,
        rate_per_s=claim.rate_per_s,
    )


def _steps(compute_ms: float, option: Option) -> int:
    # Computing needs steps of about `_STEP_MS`, and a small ring needs `_RING_READS` to fit in it.
    computing = min(compute_ms / _STEP_MS, _MOST_STEPS)
    reading = _RING_READS * option.reading_ms / max(option.prefetch_ms, _LEAST_MS)
    return max(ceil(max(computing, min(reading, _MOST_READS))), 1)
