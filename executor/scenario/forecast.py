"""Expected latencies of a scenario, by way to share its budget, on this storage or another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

import numpy as np

from swapnet.executor.engine import Engine
from swapnet.executor.planning.curve import curve as latency_curve
from swapnet.executor.runtime.division import Division, divide
from swapnet.executor.runtime.engine_curve import EngineCurve, plan_curve
from swapnet.executor.runtime.objectives import Objectives
from swapnet.executor.runtime.share_rules import ShareRule
from swapnet.executor.runtime.simulate import SimulatedModel, simulate
from swapnet.executor.runtime.simulated_cost import simulated_model
from swapnet.executor.runtime.split import RULES
from swapnet.executor.scenario.scenario import Entry, Scenario
from swapnet.executor.scenario.traffic import Arrival, round_arrivals
from swapnet.profile import Profile, with_storage

__all__ = ["Candidate", "Forecast", "candidate", "forecast"]

_UNLIMITED = "unlimited"

_ROUNDING_MS = 1e-6


@dataclass(frozen=True)
class Candidate:
    """One DNN of a scenario, with what it takes on a device."""

    entry: Entry
    curve: EngineCurve
    delays: Profile

    @property
    def objectives(self) -> Objectives:
        """Priority, deadline and rate of the DNN."""
        e = self.entry
        return Objectives(priority=e.priority, deadline_ms=e.deadline_ms, rate_per_s=e.rate_per_s)

    def at(self, share_bytes: int, curve: EngineCurve | None = None) -> SimulatedModel:
        """The DNN on the virtual clock, by the plan for this share; by default without strips."""
        curve = curve or self.curve
        budgets = [curve.budget(share_bytes)]
        manifest = curve.engine.manifest
        (point,) = latency_curve(manifest, self.delays, curve.options, budgets=budgets)
        claim = curve.claim(self.entry.name, self.objectives)
        return simulated_model(claim, curve.option(point))


@dataclass(frozen=True)
class Forecast:
    """One way to share the budget.

    Attributes
    ----------
    rule
        One of `swapnet.executor.runtime.split.RULES`, or ``"unlimited"``.
    weighted_latency_ms
        Mean over requests, weighted by priority.
    latency_ms, share_bytes, misses
        Values of each DNN; misses are requests that ended after their deadline.
    """

    rule: str
    weighted_latency_ms: float
    latency_ms: tuple[float, ...]
    share_bytes: tuple[int, ...]
    misses: tuple[int, ...]


def candidate(
    entry: Entry, engine: Engine, *, storage_bytes_per_s: float | None = None
) -> Candidate:
    """A DNN on this device, or on one with other storage.

    Parameters
    ----------
    entry, engine
        The entry of the scenario, and its engine.
    storage_bytes_per_s
        Bandwidth in place of the measured ones, idle and busy.
    """
    delays = engine.delays
    if storage_bytes_per_s is not None:
        delays = with_storage(
            delays, bytes_per_s=storage_bytes_per_s, busy_bytes_per_s=storage_bytes_per_s
        )
    points = plan_curve(engine.manifest, delays)
    return Candidate(entry, EngineCurve(engine.with_delays(delays), points), delays)


def forecast(
    candidates: Sequence[Candidate], budget_bytes: int, *, requests: int = 2_000, seed: int = 0
) -> tuple[Forecast, ...]:
    """Forecasts of each rule, and of unlimited memory, with the same seeded requests.

    Parameters
    ----------
    candidates
        The DNNs.
    budget_bytes
        Memory of all together.
    requests
        Their number for each DNN at least; they come as the scenario says.
    seed
        Seed of the requests.

    Raises
    ------
    BudgetError
        The DNNs do not fit.
    """
    curves = {each.entry.name: each.curve for each in candidates}
    objectives = {each.entry.name: each.objectives for each in candidates}
    ways = {name: divide(ShareRule(name), curves, objectives, budget_bytes) for name in RULES}
    largest = {
        name: max(option.nbytes for option in curve.claim(name, objectives[name]).options)
        for name, curve in curves.items()
    }
    ways[_UNLIMITED] = Division(0, largest)
    scenario = Scenario(title="", models=tuple(each.entry for each in candidates))
    arrivals = round_arrivals(scenario, [1] * len(candidates), requests, seed, turn=0)
    return tuple(_forecast(name, candidates, division, arrivals) for name, division in ways.items())


def _forecast(
    rule: str, candidates: Sequence[Candidate], division: Division, arrivals: Sequence[Arrival]
) -> Forecast:
    models = [
        each.at(division.shares_bytes[each.entry.name], division.engines.get(each.entry.name))
        for each in candidates
    ]
    found = simulate(models, [(arrival.due_s, arrival.model) for arrival in arrivals])
    weights = [model.priority * len(ms) for model, ms in zip(models, found, strict=True)]
    means = tuple(float(ms.mean()) for ms in found)
    return Forecast(
        rule,
        float(np.average(means, weights=weights)),
        means,
        tuple(division.shares_bytes[model.name] for model in models),
        tuple(
            int((ms > (model.deadline_ms or inf) + _ROUNDING_MS).sum())
            for model, ms in zip(models, found, strict=True)
        ),
    )
