"""What a scenario is expected to take, by way to share its budget, on this storage or another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from swapnet.executor.planning.curve import curve
from swapnet.executor.planning.planner import make_plan
from swapnet.executor.runtime.admission import too_small
from swapnet.executor.runtime.division import division_for
from swapnet.executor.runtime.engine import OPTIONS, Engine
from swapnet.executor.runtime.memory import together
from swapnet.executor.runtime.simulate import SimulatedModel, simulate
from swapnet.executor.runtime.split import RULES
from swapnet.executor.runtime.terms import Terms
from swapnet.executor.scenario.scenario import Entry, Scenario
from swapnet.executor.scenario.traffic import Arrival, round_arrivals
from swapnet.manifest import Manifest
from swapnet.profile import Profile, with_storage

__all__ = ["Candidate", "Forecast", "candidate", "forecast"]

_UNLIMITED = "unlimited"

_POINTS = 12
"""Of each curve."""


@dataclass(frozen=True)
class Candidate:
    """One DNN of a scenario, with what it takes on a device."""

    entry: Entry
    engine: Engine
    profile: Profile

    @property
    def terms(self) -> Terms:
        """What the scenario says of it."""
        entry = self.entry
        return Terms(entry.priority, entry.deadline_ms, entry.rate_per_s)

    @property
    def compute_ms(self) -> float:
        """Of one inference, with everything in memory."""
        return sum(block.idle_ms for block in self.profile.blocks)

    def with_share(self, nbytes: int) -> SimulatedModel:
        """On the virtual clock, by the plan for a share of the memory for weights."""
        alone = self.engine.alone_bytes
        plan = make_plan(self.engine.manifest, self.profile, alone + nbytes, OPTIONS)
        ms_per_byte = 1e3 / self.profile.storage.bytes_per_s
        return SimulatedModel(
            name=self.entry.name,
            compute_ms=self.compute_ms,
            read_ms=plan.streamed_bytes * ms_per_byte,
            prefetch_ms=min(plan.ring_bytes, plan.streamed_bytes) * ms_per_byte,
            steps=max(len(plan.steps), 1),
            priority=self.entry.priority,
            deadline_ms=self.entry.deadline_ms,
            rate_per_s=self.entry.rate_per_s,
        )


@dataclass(frozen=True)
class Forecast:
    """One way to share the budget.

    Attributes
    ----------
    rule
        Of `swapnet.executor.runtime.split`, or ``"unlimited"``.
    weighted_latency_ms
        Mean over requests, weighted by priority.
    latency_ms, share_bytes, misses
        By DNN; misses are requests that ended after their deadline.
    """

    rule: str
    weighted_latency_ms: float
    latency_ms: tuple[float, ...]
    share_bytes: tuple[int, ...]
    misses: tuple[int, ...]


def candidate(
    entry: Entry,
    folder: Path,
    manifest: Manifest,
    profile: Profile,
    *,
    storage_bytes_per_s: float | None = None,
) -> Candidate:
    """A DNN on this device, or on one with other storage.

    Parameters
    ----------
    entry, folder, manifest, profile
        What is asked, of which engine, with which delays.
    storage_bytes_per_s
        In place of the measured one, idle and busy.
    """
    if storage_bytes_per_s is not None:
        profile = with_storage(
            profile, bytes_per_s=storage_bytes_per_s, busy_bytes_per_s=storage_bytes_per_s
        )
    points = curve(manifest, profile, OPTIONS, count=_POINTS)
    return Candidate(entry, Engine(folder, manifest, entry.shapes, points), profile)


def forecast(
    candidates: Sequence[Candidate], budget_bytes: int, *, requests: int = 2_000, seed: int = 0
) -> tuple[Forecast, ...]:
    """Each rule, and unlimited memory, with the same seeded requests.

    Parameters
    ----------
    candidates
        The DNNs.
    budget_bytes
        Of all together.
    requests
        Of each DNN at least, as the scenario says that they come.
    seed
        Of the requests.

    Raises
    ------
    BudgetError
        The DNNs do not fit.
    """
    claims = [each.engine.claim(each.entry.name, each.terms) for each in candidates]
    other_bytes = together([each.engine.manifest for each in candidates]).other_bytes
    available_bytes = budget_bytes - other_bytes
    divisions = {rule: division_for(rule) for rule in RULES}
    needed_bytes = max(division.needed_bytes(claims) for division in divisions.values())
    if needed_bytes > available_bytes:
        names = [claim.name for claim in claims]
        raise too_small(names, other_bytes + needed_bytes, budget_bytes)
    ways = {rule: division.shares(claims, available_bytes) for rule, division in divisions.items()}
    ways[_UNLIMITED] = {
        claim.name: max(option.nbytes for option in claim.options) for claim in claims
    }
    scenario = Scenario(title="", models=tuple(each.entry for each in candidates))
    arrivals = round_arrivals(scenario, [1] * len(candidates), requests, seed, turn=0)
    return tuple(_forecast(rule, candidates, shares, arrivals) for rule, shares in ways.items())


def _forecast(
    rule: str,
    candidates: Sequence[Candidate],
    shares: Mapping[str, int],
    arrivals: Sequence[Arrival],
) -> Forecast:
    models = [each.with_share(shares[each.entry.name]) for each in candidates]
    outcome = simulate(models, [(arrival.due_s, arrival.model) for arrival in arrivals])
    return Forecast(
        rule,
        outcome.weighted_latency_ms,
        tuple(float(np.mean(ms)) if len(ms) else 0.0 for ms in outcome.latencies_ms),
        tuple(shares[model.name] for model in models),
        tuple(outcome.misses),
    )
