"""Many made-up DNNs that look like those of the zoo, sharing one budget."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil

import numpy as np

from swapnet.executor.runtime.simulate import SimulatedModel
from swapnet.executor.runtime.split import Claim, Option, Share, split

__all__ = ["fleet"]

_MIB = 1 << 20

_ZOO = (
    (549, 238),
    (170, 92),
    (199, 2166),
    (237, 316),
    (328, 147),
    (42, 14),
    (10, 36),
    (5, 78),
    (24, 18),
    (52, 37),
)
"""MiB of weights and ms of an inference without swapping (docs/performance.md)."""

_BYTES_PER_S = 1.2e9
"""Of storage."""

_STEP_BYTES = 8 * _MIB
_STEP_MS = 25.0
_MOST_STEPS = 12

_OPTIONS = 12
"""Of each model's latency over memory."""

_WITH_DEADLINE = 0.7
"""Share of models."""


@dataclass(frozen=True)
class _Made:
    """One model before it has a share."""

    name: str
    weights_bytes: int
    compute_ms: float
    steps: int
    priority: float
    rate_per_s: float
    deadline_ms: float | None

    @property
    def smallest_bytes(self) -> int:
        """A ring of two steps."""
        return ceil(self.weights_bytes * min(2 / self.steps, 1.0))

    def read_ms(self, nbytes: int) -> float:
        """What is streamed with a share: weights that are not resident beside the ring."""
        resident = nbytes - self.smallest_bytes
        if nbytes >= self.weights_bytes:
            return 0.0
        return (self.weights_bytes - resident) / _BYTES_PER_S * 1e3

    def claim(self) -> Claim:
        """Latency over memory of a pipeline: the slower side, and one step of the other."""
        spare = self.weights_bytes - self.smallest_bytes
        sizes = {self.smallest_bytes + spare * at // (_OPTIONS - 1) for at in range(_OPTIONS)}
        options = []
        for nbytes in sorted(sizes):
            read_ms = self.read_ms(nbytes)
            slower, faster = sorted((self.compute_ms, read_ms), reverse=True)
            options.append(Option(nbytes, slower + faster / self.steps, read_ms))
        return Claim(self.name, tuple(options), self.priority, self.rate_per_s, self.deadline_ms)

    def simulated(self, share: Share) -> SimulatedModel:
        """With a share of the budget."""
        read_ms = self.read_ms(share.nbytes)
        return SimulatedModel(
            name=self.name,
            compute_ms=self.compute_ms,
            read_ms=read_ms,
            prefetch_ms=min(self.smallest_bytes / _BYTES_PER_S * 1e3, read_ms),
            steps=self.steps,
            priority=self.priority,
            deadline_ms=self.deadline_ms,
            rate_per_s=self.rate_per_s,
        )


def fleet(
    count: int,
    seed: int,
    *,
    utilisation: float = 0.7,
    memory: float = 0.25,
    rule: str = "latency",
) -> tuple[SimulatedModel, ...]:
    """Make models, split a budget over them, and give them rates.

    Parameters
    ----------
    count
        Of models.
    seed
        The same one gives the same models.
    utilisation
        Of the busier one of one compute lane and of storage, once rates are scaled.
    memory
        Of the budget: 0 is what all smallest shares take together, 1 is all weights.
    rule
        How the budget is split.

    Notes
    -----
    Weights and compute times are drawn together from the log-normal distribution with the means and
    the covariance of the zoo's. A slow model is asked less often: loads, not rates, are log-normal.
    """
    rng = np.random.default_rng(seed)
    made = [_make(f"model {at}", rng) for at in range(count)]
    load = sum(model.rate_per_s * model.compute_ms / 1e3 for model in made)
    made = [replace(m, rate_per_s=m.rate_per_s * utilisation / load) for m in made]
    smallest = sum(model.smallest_bytes for model in made)
    spare = sum(model.weights_bytes for model in made) - smallest
    shares = split([m.claim() for m in made], smallest + int(spare * memory), rule=rule)
    models = [model.simulated(share) for model, share in zip(made, shares, strict=True)]
    busiest = max(
        sum(model.rate_per_s * model.compute_ms / 1e3 for model in models),
        sum(model.rate_per_s * model.read_ms / 1e3 for model in models),
    )
    return tuple(replace(m, rate_per_s=m.rate_per_s * utilisation / busiest) for m in models)


def _make(name: str, rng: np.random.Generator) -> _Made:
    logs = np.log(np.array(_ZOO, float))
    mib, compute_ms = np.exp(rng.multivariate_normal(logs.mean(axis=0), np.cov(logs.T)))
    weights_bytes = max(int(mib * _MIB), 1)
    steps = ceil(max(weights_bytes / _STEP_BYTES, compute_ms / _STEP_MS))
    deadline_ms = float(compute_ms * rng.uniform(3, 15) + 50)
    return _Made(
        name=name,
        weights_bytes=weights_bytes,
        compute_ms=float(compute_ms),
        steps=min(max(steps, 1), _MOST_STEPS),
        priority=float(rng.choice([1, 2, 4])),
        rate_per_s=float(rng.lognormal(0, 1) / compute_ms),
        deadline_ms=deadline_ms if rng.random() < _WITH_DEADLINE else None,
    )
