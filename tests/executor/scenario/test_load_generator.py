"""A round in a runtime that only pretends."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, cast

import msgspec
import numpy as np
import pytest

from swapnet.errors import BudgetError, InputError
from swapnet.executor import SwapRuntime
from swapnet.executor.report.trace import trace_file
from swapnet.executor.scenario.load_generator import LoadGenerator, Timeline
from swapnet.executor.scenario.messages import Alone, Job, Output, Round
from swapnet.executor.scenario.output_digests import digest_of
from swapnet.executor.scenario.steps import Change
from swapnet.executor.scenario.traffic import Arrival
from swapnet.testing.engine import write_engine
from tests.executor.scenario.conftest import MIB, FakeRuntime
from tests.helpers.threads import ended
from tests.helpers.traces import check_format

ARRIVALS = (Arrival(0.0, 0, 0), Arrival(0.01, 1, 1), Arrival(0.02, 0, 1), Arrival(0.03, 0, 0))


@pytest.fixture
def said() -> list[msgspec.Struct]:
    """What the parent was told."""
    return []


@pytest.fixture
def runtime() -> FakeRuntime:
    """Of 64 MiB."""
    return FakeRuntime(64 * MIB, smallest_bytes=16 * MIB)


@pytest.fixture
def generator(
    job: Callable[..., Job], runtime: FakeRuntime, said: list[msgspec.Struct]
) -> LoadGenerator:
    """Of two DNNs."""
    return LoadGenerator(job(), cast("Any", runtime), lambda message, _: said.append(message))


def test_a_round_answers_every_request(
    generator: LoadGenerator, said: list[msgspec.Struct]
) -> None:
    turned = generator.round(Round(ARRIVALS))
    assert sorted((s.due_s, s.model, s.sample) for s in turned.served) == [
        (a.due_s, a.model, a.sample) for a in ARRIVALS
    ]
    assert all(s.latency_ms > 0 and not s.error for s in turned.served)
    first = digest_of({"y": np.array([2.0], np.float32)})
    assert [s.digest for s in turned.served if s.sample == 0] == [first, first]
    assert turned.read_bytes == (300, 100)
    assert turned.seconds >= 0.03
    assert turned.moments[-1].shares_bytes == (32 * MIB, 32 * MIB)
    assert turned.moments[-1].waiting == (0, 0)
    assert sum(isinstance(message, Output) for message in said) == 3


def test_requests_that_fail_or_are_refused_are_counted(
    generator: LoadGenerator, runtime: FakeRuntime
) -> None:
    runtime.models["one"].failing.add(2.0)
    runtime.models["two"].refusing.add(2.0)
    errors = {(s.model, s.sample): s.error for s in generator.round(Round(ARRIVALS)).served}
    assert errors == {
        (0, 0): "",
        (0, 1): "BackendError: it failed",
        (1, 1): "BackendError: it is gone somebody unloaded it",
    }


def test_the_budget_changes_meanwhile(generator: LoadGenerator, runtime: FakeRuntime) -> None:
    changes = (Change(0.01, 32 * MIB), Change(0.05, 64 * MIB))
    turned = generator.round(Round(ARRIVALS, changes))
    assert runtime.budgets == [32 * MIB, 64 * MIB]
    assert [change.budget_bytes for change in turned.changed] == runtime.budgets
    assert all(
        change.at_s >= wanted.at_s for change, wanted in zip(turned.changed, changes, strict=True)
    )
    assert turned.seconds >= 0.05


def test_an_impossible_budget_ends_the_round(generator: LoadGenerator) -> None:
    with pytest.raises(BudgetError, match="too little"):
        generator.round(Round(ARRIVALS, (Change(0.0, MIB),)))


def test_budgets_to_come_are_tried_first(job: Callable[..., Job], runtime: FakeRuntime) -> None:
    LoadGenerator(job(budgets=(32 * MIB, 48 * MIB)), cast("Any", runtime), lambda *_: None)
    assert runtime.budgets == [32 * MIB, 48 * MIB, 64 * MIB]
    with pytest.raises(BudgetError):
        LoadGenerator(job(budgets=(MIB,)), cast("Any", runtime), lambda *_: None)


def test_rates_of_a_pause_are_forgotten(generator: LoadGenerator, runtime: FakeRuntime) -> None:
    generator.round(Round(ARRIVALS))
    generator.round(Round(ARRIVALS))
    expected = {model: {"rate_per_s": 2.0} for model in runtime.models.values()}
    assert runtime.updates == [expected, expected]


def test_one_input_alone(generator: LoadGenerator) -> None:
    measured = generator.alone(Alone(1, 1, 3))
    assert len(measured.latency_ms) == 3
    assert measured.digest == digest_of({"y": np.array([4.0], np.float32)})


def test_a_round_of_nothing(generator: LoadGenerator) -> None:
    assert generator.round(Round(())).served == ()


def test_what_is_in_force_and_its_end(generator: LoadGenerator, runtime: FakeRuntime) -> None:
    closed = generator.close(3)
    assert runtime.closed
    assert closed.resident_peak_bytes > 0
    assert closed.events == ()


def test_a_timeline_has_inferences_and_decisions(job: Callable[..., Job], tmp_path: Path) -> None:
    """Of a runtime that executes; what is refused is kept, events without instructions are not."""
    timeline = Timeline(job(("toy",), trace=4))
    write_engine(tmp_path / "toy", [4096, 8192])
    with SwapRuntime(
        "64MiB", trace=True, on_event=timeline.record, on_decision=timeline.decide
    ) as runtime:
        model = runtime.load(tmp_path / "toy")
        for value in range(3):
            ended(partial(model, {"x": [float(value)]}))
        with pytest.raises(InputError):
            ended(partial(model, {}))
    events = timeline.events(2)
    check_format(trace_file(events, ""))
    names = [event["name"] for event in events]
    assert {"inference 2", "inference 3", "step toy"} <= set(names)
    assert sum(name.startswith("serve toy") for name in names) == 1, "the last inference"
    assert sum(name.startswith("refused toy") for name in names) == 1
    assert all(each.instructions or each.event == "refused" for each in timeline._decisions)
