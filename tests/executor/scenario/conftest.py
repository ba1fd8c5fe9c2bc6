"""Scenarios that nobody runs, and a runtime that only pretends."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from swapnet.arrays import Array, save_npz
from swapnet.errors import BackendError, BudgetError
from swapnet.executor.bench.statistics import summarise
from swapnet.executor.runtime.model import ModelStats
from swapnet.executor.runtime.objectives import Changes
from swapnet.executor.scenario.messages import Engine, Job, Served
from swapnet.executor.scenario.report import Line, Report, Way
from swapnet.executor.scenario.scenario import Entry, Scenario
from swapnet.executor.stats import Stats
from tests.executor.bench.conftest import a_report as a_bench_report

MIB = 1 << 20


def an_entry(name: str = "one", **fields: Any) -> Entry:
    """A DNN that is asked twice a second."""
    usual: dict[str, Any] = {"name": name, "model": "yolov3", "rate_per_s": 2.0}
    return Entry(**{**usual, **fields})


def a_scenario(*entries: Entry) -> Scenario:
    """Two DNNs, unless others are given."""
    return Scenario(title="A device", models=entries or (an_entry(), an_entry("two", rate_per_s=5)))


def served(model: int, latency_ms: float, due_s: float = 0.0, **fields: Any) -> Served:
    """A request that was answered rightly."""
    usual: dict[str, Any] = {"sample": 0, "digest": "" if fields.get("error") else "right"}
    return Served(model=model, due_s=due_s, latency_ms=latency_ms, **{**usual, **fields})


def a_line(name: str = "one", **fields: Any) -> Line:
    """A DNN whose requests all went well."""
    usual: dict[str, Any] = {
        "name": name,
        "model": "yolov3",
        "task": "boxes",
        "priority": 1.0,
        "rate_per_s": 2.0,
        "deadline_ms": 200.0,
        "requests": 50,
        "failures": 0,
        "wrong_outputs": 0,
        "latency_ms": summarise([120.0]),
        "unlimited_ms": summarise([100.0]),
        "ratio_to_unlimited": 1.2,
        "bound_ms": 95.0,
        "compute_ms": 90.0,
        "deadline_misses": 3,
        "budget_bytes": 16 * MIB,
        "weights_bytes": 60 * MIB,
        "read_bytes": 50 * 44 * MIB,
        "read_bytes_per_inference": 44 * MIB,
    }
    return Line(**{**usual, **fields})


def a_report(**fields: Any) -> Report:
    """A run in which everything held."""
    usual: dict[str, Any] = {
        "scenario": "device",
        "title": "A device",
        "split": "latency",
        "lanes": 1,
        "budget": "weights:25%",
        "budget_bytes": 64 * MIB,
        "demand_bytes": 140 * MIB,
        "weights_bytes": 120 * MIB,
        "peak_bytes": 60 * MIB,
        "fixed_bytes": 30 * MIB,
        "traffic_bytes": 5 * MIB,
        "memory_accounting": "kernel",
        "storage_bytes_per_s": 1.5e9,
        "weighted_latency_ms": 120.0,
        "models": (a_line(), a_line("two", deadline_ms=None)),
        "compare": {"equal": 1.5, "whole_model": None, "unlimited": 0.8},
        "ways": {
            "ours": Way(weighted_latency_ms=120.0, requests=100),
            "equal": Way(weighted_latency_ms=180.0, requests=100),
            "whole_model": Way(note="it does not fit"),
            "unlimited": Way(weighted_latency_ms=96.0, requests=100),
        },
        "phases": (),
        "samples": (),
        "errors": {},
        "rounds": 4,
        "seed": 0,
        "command": "swapnet scenario run device",
        "machine": a_bench_report().machine,
    }
    return Report(**{**usual, **fields})


@dataclass(eq=False)
class FakeModel:
    """ExpectedOutputs at once with its input doubled; fails where it is told to."""

    failing: set[float] = field(default_factory=set)
    refusing: set[float] = field(default_factory=set)
    asked: int = 0

    @property
    def stats(self) -> ModelStats:
        return ModelStats(execution=Stats(read_bytes=100 * self.asked))

    def submit(self, inputs: Mapping[str, Any], *, copy: bool = True) -> Future[dict[str, Array]]:
        assert not copy, "samples stay as they are"
        value = float(inputs["x"][0])
        if value in self.refusing:
            raise BackendError("it is gone", why="somebody unloaded it")
        self.asked += 1
        result: Future[dict[str, Array]] = Future()
        if value in self.failing:
            result.set_exception(BackendError("it failed"))
        else:
            result.set_result({"y": 2 * inputs["x"]})
        return result


class FakeRuntime:
    """Shares its budget equally; below ``smallest_bytes`` it refuses."""

    def __init__(self, budget_bytes: int, smallest_bytes: int = 0) -> None:
        self.budget_bytes = budget_bytes
        self.smallest_bytes = smallest_bytes
        self.budgets: list[int] = []
        self.updates: list[dict[FakeModel, Changes]] = []
        self.models: dict[str, FakeModel] = {}
        self.closed = False

    @property
    def shares_bytes(self) -> dict[str, int]:
        return dict.fromkeys(self.models, self.budget_bytes // max(len(self.models), 1))

    def load(self, folder: Path, *, name: str, **_: Any) -> FakeModel:
        assert isinstance(folder, Path)
        self.models[name] = FakeModel()
        return self.models[name]

    def update(self, changes: Mapping[Any, Changes]) -> None:
        self.updates.append(dict(changes))

    def set_budget(self, budget: int) -> None:
        if budget < self.smallest_bytes:
            raise BudgetError("too little", smallest_bytes=self.smallest_bytes)
        self.budget_bytes = budget
        self.budgets.append(budget)

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def job(tmp_path: Path) -> Callable[..., Job]:
    """Two DNNs with two inputs each: 1 and 2."""
    save_npz(tmp_path / "samples.npz", {"x": np.array([[1.0], [2.0]], np.float32)})

    def make(names: Sequence[str] = ("one", "two"), **fields: Any) -> Job:
        engines = (
            Engine(an_entry(name), "nowhere", str(tmp_path / "samples.npz")) for name in names
        )
        usual: dict[str, Any] = {"budget_bytes": 64 * MIB, "split": "latency", "threads": 1}
        return Job(engines=tuple(engines), **{**usual, **fields})

    return make
