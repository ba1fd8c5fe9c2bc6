"""The DNNs of a scenario on a virtual clock: what no inference beats, and what waiting adds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from swapnet.executor.runtime.simulate import SimulatedModel, simulate
from swapnet.executor.scenario.scenario import Entry
from swapnet.executor.scenario.traffic import Arrival
from swapnet.manifest import Manifest

__all__ = ["Means", "bound_ms", "on_virtual_clock", "virtual_model"]

_STEPS = 64
"""Of an inference: finer than real ones, so that nothing waits where these need not."""


@dataclass(frozen=True)
class Means:
    """Mean latencies of one DNN on the virtual clock.

    Attributes
    ----------
    latency_ms
        With what was read, one channel and as many lanes as there are.
    unlimited_ms
        The same requests with everything in memory.
    """

    latency_ms: float
    unlimited_ms: float

    @property
    def ratio(self) -> float:
        """What reading costs in this order of requests; another may serve one DNN sooner."""
        return self.latency_ms / self.unlimited_ms


def virtual_model(
    entry: Entry,
    manifest: Manifest,
    *,
    compute_ms: float,
    read_bytes: float,
    share_bytes: int,
    storage_bytes_per_s: float,
) -> SimulatedModel:
    """One DNN with the delays that were measured.

    Parameters
    ----------
    entry, manifest
        The DNN.
    compute_ms
        Alone, with everything in memory.
    read_bytes
        In one inference.
    share_bytes
        For weights: what resident ones leave of it is the ring.
    storage_bytes_per_s
        Of idle storage; 0 where there is nothing to read.
    """
    ring = share_bytes - (manifest.weights_nbytes - read_bytes)
    ms_per_byte = 1e3 / storage_bytes_per_s if storage_bytes_per_s else 0.0
    return SimulatedModel(
        name=entry.name,
        compute_ms=compute_ms,
        read_ms=read_bytes * ms_per_byte,
        prefetch_ms=min(max(ring, 0.0), read_bytes) * ms_per_byte,
        steps=_STEPS,
        priority=entry.priority,
        deadline_ms=entry.deadline_ms,
        rate_per_s=entry.rate_per_s,
    )


def bound_ms(model: SimulatedModel) -> float:
    """What no inference beats: computing, or reading what the ring does not hold."""
    return max(model.compute_ms, model.read_ms - model.prefetch_ms)


def on_virtual_clock(
    models: Sequence[SimulatedModel], rounds: Sequence[Sequence[Arrival]], *, lanes: int = 1
) -> tuple[Means, ...]:
    """Mean latencies by DNN: one channel, lanes, and requests by their deadlines.

    Parameters
    ----------
    models
        With the delays that were measured.
    rounds
        The requests that were made.
    lanes
        Inferences that compute at once.
    """
    limited = _means(models, rounds, lanes)
    unlimited = _means([replace(m, read_ms=0.0, prefetch_ms=0.0) for m in models], rounds, lanes)
    return tuple(map(Means, limited, unlimited))


def _means(
    models: Sequence[SimulatedModel], rounds: Sequence[Sequence[Arrival]], lanes: int
) -> list[float]:
    outcomes = [
        simulate(models, [(a.due_s, a.model) for a in arrivals], lanes=lanes) for arrivals in rounds
    ]
    return [
        float(np.concatenate([outcome.latencies_ms[index] for outcome in outcomes]).mean())
        for index in range(len(models))
    ]
