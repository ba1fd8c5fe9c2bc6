"""Options of a run of a scenario, and its DNNs with their inputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from swapnet.arrays import Array
from swapnet.budget import Budget, Demand
from swapnet.errors import SwapnetError
from swapnet.executor.device import Device
from swapnet.executor.engine import Engine
from swapnet.executor.inputs import check_inputs, planned_sample
from swapnet.executor.planning.usage import demand
from swapnet.executor.runtime.batching import largest_batch
from swapnet.executor.runtime.memory import together
from swapnet.executor.scenario.baselines import WHOLE_MODEL
from swapnet.executor.scenario.output_digests import HELD
from swapnet.executor.scenario.scenario import Entry, Scenario
from swapnet.executor.scenario.steps import BudgetStep, parse_steps
from swapnet.executor.scenario.traffic import Arrival, round_arrivals, round_seconds
from swapnet.manifest import Manifest

__all__ = ["OTHERS", "OURS", "SPLIT", "UNLIMITED", "ExperimentOptions", "Part", "samples_for"]

OURS, UNLIMITED = "ours", "unlimited"
SPLIT = "latency"
"""Our way to share a budget, as the runtime calls it."""

OTHERS = ("equal", "proportional", WHOLE_MODEL)
"""Other ways."""


@dataclass(frozen=True)
class Part:
    """One DNN of a scenario, ready to run.

    Attributes
    ----------
    entry
        Entry of the DNN in the scenario.
    engine
        The engine, at the shapes of its inputs.
    samples
        Inputs by name, with a leading sample axis.
    """

    entry: Entry
    engine: Engine
    samples: dict[str, Array]

    @property
    def manifest(self) -> Manifest:
        """The engine's."""
        return self.engine.manifest

    @property
    def count(self) -> int:
        """Number of inputs."""
        return len(next(iter(self.samples.values())))

    @property
    def can_join(self) -> bool:
        """True where requests may be answered together."""
        return largest_batch(self.manifest) > 1


@dataclass(frozen=True)
class ExperimentOptions:
    """Options of a run.

    Attributes
    ----------
    name
        Name of the scenario.
    scenario
        The scenario, at the speed of this run.
    parts
        DNNs of the scenario, in its order.
    budget
        Memory of all DNNs together.
    one_operator
        An engine of one operator: its process is the fixed cost.
    device
        Compute threads.
    others
        To compare with, among `OTHERS`.
    budget_steps
        Changes of the budget during the run, as `parse_steps` takes them.
    requests
        Requests of each DNN at least, over all rounds.
    rounds
        Turns of each way.
    seed
        Seed of the requests.
    lanes
        Inferences that compute at once.
    memory_limit
        Run under the kernel's limit of the fixed cost, the budget and the traffic.
    trace
        Inferences of the least asked DNN in the timeline of our way; 0 records none.
    command
        For the report.
    """

    name: str
    scenario: Scenario
    parts: tuple[Part, ...]
    budget: Budget
    one_operator: Path
    device: Device
    others: tuple[str, ...] = ()
    budget_steps: str = ""
    requests: int = 50
    rounds: int = 4
    seed: int = 0
    lanes: int = 1
    memory_limit: bool = False
    trace: int = 0
    command: str = ""

    @cached_property
    def demand(self) -> Demand:
        """Memory of all DNNs together, without swapping."""
        return together([part.manifest for part in self.parts], lanes=self.lanes)

    @property
    def budget_bytes(self) -> int:
        """The budget."""
        return self.budget.resolve(self.demand)

    @property
    def steps(self) -> tuple[BudgetStep, ...]:
        """Changes of the budget during the run."""
        return parse_steps(self.budget_steps, self.budget_bytes)

    @property
    def unlimited_bytes(self) -> int:
        """Memory in which all DNNs fit, even if they share nothing."""
        apart = sum(demand(part.manifest).total_bytes for part in self.parts)
        return max(apart, self.demand.total_bytes) + self.budget_bytes

    @property
    def all_ways_bytes(self) -> int:
        """Memory of the processes of all ways, which are open at the same time."""
        each = self.budget_bytes + self.traffic_bytes
        return self.unlimited_bytes + self.traffic_bytes + each * (1 + len(self.others))

    @property
    def traffic_bytes(self) -> int:
        """Memory of a worker that is not its runtime's: inputs, and outputs being compared."""
        held = max(sum(t.nbytes for t in part.manifest.outputs) for part in self.parts)
        inputs = sum(array.nbytes for part in self.parts for array in part.samples.values())
        return inputs + HELD * held

    @property
    def round_requests(self) -> int:
        """Requests of each DNN at least, in one round."""
        return -(-self.requests // self.rounds)

    @property
    def round_seconds(self) -> float:
        """Time in which the requests of a round come."""
        return round_seconds(self.scenario, self.round_requests)

    def arrivals(self, turn: int) -> tuple[Arrival, ...]:
        """The requests of a round."""
        counts = [part.count for part in self.parts]
        return round_arrivals(self.scenario, counts, self.round_requests, self.seed, turn)


def samples_for(manifest: Manifest, given: Mapping[str, Array], count: int) -> dict[str, Array]:
    """The first ``count`` of the given inputs; seeded ones where the engine does not take those.

    Parameters
    ----------
    manifest
        The engine that they are for.
    given
        Arrays with a leading sample axis; may be none.
    count
        Samples, at most.
    """
    try:
        check_inputs(manifest, {name: array[0] for name, array in given.items()})
    except SwapnetError:
        return _seeded(manifest, count)
    return {name: np.ascontiguousarray(array[:count]) for name, array in given.items()}


def _seeded(manifest: Manifest, count: int) -> dict[str, Array]:
    """Inputs of one row where requests may be answered together, else of the planned shapes."""
    samples = [planned_sample(manifest, seed) for seed in range(count)]
    stacked = {t.name: np.stack([sample[t.name] for sample in samples]) for t in manifest.inputs}
    if largest_batch(manifest) > 1:
        return {name: array[:, :1].copy() for name, array in stacked.items()}
    return stacked
