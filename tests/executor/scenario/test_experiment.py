"""Ways that take turns, in this process and with runtimes that only pretend."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from swapnet.budget import Budget
from swapnet.errors import BudgetError, SwapnetError
from swapnet.executor.device import Device
from swapnet.executor.engine import Engine
from swapnet.executor.pace import Pace
from swapnet.executor.scenario import experiment as module
from swapnet.executor.scenario.experiment_options import ExperimentOptions, Part
from swapnet.executor.scenario.load_generator import LoadGenerator
from swapnet.executor.scenario.messages import Alone, Close, Command, Job, Output, Ready
from swapnet.executor.scenario.scenario import at_rates
from swapnet.testing.engine import write_engine
from tests.executor.scenario.conftest import MIB, FakeRuntime, a_scenario


class FakeProcess:
    """A worker in this process; ``calls`` are of all of them, in order."""

    calls: list[str]
    jobs: list[Job]
    breaking: dict[str, SwapnetError]
    wrong: set[str]

    def __init__(self, name: str, job: Job, **_: Any) -> None:
        self.name = name
        self.jobs.append(job)
        self.outputs: dict[Any, Any] = {}
        self.calls.append(f"open {name}")
        if error := self.breaking.get(f"open {name}"):
            raise error
        self.generator = LoadGenerator(job, cast("Any", FakeRuntime(job.budget_bytes)), self._say)

    def _say(self, message: Any, _: Any) -> None:
        if isinstance(message, Output):
            self.outputs[message.key] = {"y": np.zeros(1, np.float32)}

    def ask(self, command: Command, _: object) -> Any:
        if isinstance(command, Close):
            return Ready(50 * MIB)
        if isinstance(command, Alone):
            return self.generator.alone(command)
        self.calls.append(f"turn {self.name}")
        if error := self.breaking.get(f"turn {self.name}"):
            raise error
        if self.name in self.wrong:
            for arrays in self.generator._samples:
                arrays["x"][1] = 5.0
        return self.generator.round(command)

    def close(self) -> None:
        self.calls.append(f"close {self.name}")

    def __enter__(self) -> FakeProcess:
        return self

    def __exit__(self, *_: object) -> None:
        return


class FakeCost:
    """A process that costs 10 MiB."""

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def measure(self, *, counted: bool) -> int:
        del counted
        return 10 * MIB

    def warm_up(self) -> None:
        pass


@pytest.fixture
def process(monkeypatch: pytest.MonkeyPatch) -> type[FakeProcess]:
    """No process is started, and no memory counted."""
    fake = type(
        "WorkerProcess", (FakeProcess,), {"calls": [], "jobs": [], "breaking": {}, "wrong": set()}
    )
    monkeypatch.setattr(module, "WorkerProcess", fake)
    monkeypatch.setattr(module, "executor_cost", FakeCost)
    monkeypatch.setattr(module, "is_available", lambda: False)
    return fake


@pytest.fixture
def options(tmp_path: Path) -> Callable[..., ExperimentOptions]:
    """Two DNNs with two inputs each, in two short rounds."""
    folder = tmp_path / "engine"
    write_engine(folder, [MIB] * 4)
    engine = Engine.open(folder)
    scenario = at_rates(a_scenario(), {}, 20.0)
    samples = {"x": np.array([[1.0], [2.0]], np.float32)}
    parts = tuple(Part(entry, engine, dict(samples)) for entry in scenario.models)

    def make(**fields: Any) -> ExperimentOptions:
        usual: dict[str, Any] = {
            "name": "device",
            "scenario": scenario,
            "parts": parts,
            "budget": Budget(32 * MIB),
            "one_operator": Path("none"),
            "device": Device(1),
            "requests": 2,
            "rounds": 2,
        }
        return ExperimentOptions(**{**usual, **fields})

    return make


def test_all_read_at_the_same_pace(
    process: type[FakeProcess], options: Callable[..., ExperimentOptions]
) -> None:
    """And so does what measures storage."""
    report = module.experiment(options(others=("equal",), device=Device(1, pace=Pace(4e7)))).report
    assert [job.storage_bytes_per_s for job in process.jobs] == [4e7] * 3
    assert report.storage_bytes_per_s < 4.4e7


def test_a_budget_that_is_too_small_opens_nothing(
    process: type[FakeProcess], options: Callable[..., ExperimentOptions]
) -> None:
    smallest = options().demand.smallest_bytes
    with pytest.raises(BudgetError, match="do not fit") as caught:
        module.experiment(options(budget=Budget(smallest - 1)))
    assert f"need {smallest} bytes; the budget allows {smallest - 1}" in caught.value.why
    assert process.jobs == []


def test_memory_for_all_ways_is_needed(
    process: type[FakeProcess],
    options: Callable[..., ExperimentOptions],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wanted = options(others=("equal",))
    needed = wanted.all_ways_bytes
    assert needed > wanted.unlimited_bytes + 2 * wanted.budget_bytes
    monkeypatch.setattr(module, "memory_bytes", lambda: needed - 1)
    with pytest.raises(BudgetError, match="take more than this machine has") as caught:
        module.experiment(wanted)
    assert str(needed) in caught.value.why
    assert str(needed - 1) in caught.value.why
    assert process.jobs == []
    monkeypatch.setattr(module, "memory_bytes", lambda: needed)
    module.experiment(wanted)


def test_ways_take_turns_in_alternating_order(
    process: type[FakeProcess], options: Callable[..., ExperimentOptions]
) -> None:
    told: list[str] = []
    report = module.experiment(
        options(others=("equal",)), lambda stage, *_: told.append(stage)
    ).report
    turns = [call for call in process.calls if call.startswith("turn")]
    order = ["turn unlimited", "turn ours", "turn equal"]
    assert turns == order + order[::-1]
    assert "round 2 of 2, equal" in told
    assert [line.requests for line in report.models] == [2, 4]
    assert report.memory_accounting == "resident set"
    assert report.peak_bytes == 50 * MIB - report.fixed_bytes - report.traffic_bytes
    assert report.storage_bytes_per_s > 0
    assert set(report.compare) == {"equal", "unlimited"}
    assert all(way.wrong_outputs == way.failures == 0 for way in report.ways.values())


@pytest.mark.parametrize("when", ["open equal", "turn equal"])
def test_what_we_are_compared_with_may_fail(
    process: type[FakeProcess], options: Callable[..., ExperimentOptions], when: str
) -> None:
    process.breaking[when] = BudgetError("it does not fit", why="it needs 3 bytes")
    report = module.experiment(options(others=("equal",))).report
    assert report.ways["equal"].note == "it does not fit: it needs 3 bytes"
    assert report.compare["equal"] is None
    assert report.compare["unlimited"] is not None
    assert sum(call == "turn equal" for call in process.calls) == (when == "turn equal")


@pytest.mark.parametrize("when", ["open ours", "turn ours", "open unlimited", "turn unlimited"])
def test_ours_may_not(
    process: type[FakeProcess], options: Callable[..., ExperimentOptions], when: str
) -> None:
    process.breaking[when] = BudgetError("it does not fit", smallest_bytes=3)
    with pytest.raises(BudgetError, match="it does not fit"):
        module.experiment(options())


@pytest.mark.slow
def test_other_outputs_are_wrong(
    process: type[FakeProcess], options: Callable[..., ExperimentOptions]
) -> None:
    process.wrong.add("ours")
    report = module.experiment(options(requests=20)).report
    wrong = report.ways["ours"].wrong_outputs
    assert 0 < wrong < report.ways["ours"].requests
    assert sum(line.wrong_outputs for line in report.models) == wrong
    assert report.ways["unlimited"].wrong_outputs == 0


def test_the_budget_changes_for_all_but_the_unlimited(
    process: type[FakeProcess], options: Callable[..., ExperimentOptions]
) -> None:
    report = module.experiment(options(others=("equal",), budget_steps="0.25:50%,0.75:100%")).report
    assert [phase.budget_bytes for phase in report.phases] == [32 * MIB, 16 * MIB, 32 * MIB]
    assert sum(phase.requests for phase in report.phases) == report.ways["ours"].requests
    assert report.samples[-1].budget_bytes == 32 * MIB
    assert len(process.calls) == 3 + 6 + 3
