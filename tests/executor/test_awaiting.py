"""`await infer(…)`: of an executor and of a model in a runtime."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest

from swapnet.errors import BackendError, InputError
from swapnet.executor import RuntimeModel, SwapExecutor, SwapRuntime
from swapnet.executor.planning.plan import Step
from tests.helpers.simulated import Gate, Simulated, budget_for, hooked_steps, load, simulated
from tests.helpers.threads import LIMIT_S, ended

Model = SwapExecutor | RuntimeModel
Result = TypeVar("Result")


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> dict[str, Callable[[Step], None]]:
    """Called before each step of the engine ``a``."""
    return hooked_steps(monkeypatch)


@pytest.fixture
def one(tmp_path: Path) -> Simulated:
    return simulated(tmp_path / "a", [40 << 10] * 4)


@pytest.fixture(params=["executor", "model"])
def model(request: pytest.FixtureRequest, one: Simulated, steps: object) -> Iterator[Model]:
    """An executor alone, or one of a runtime."""
    assert not steps
    if request.param == "executor":
        with SwapExecutor(one.folder, "100%") as executor:
            yield executor
    else:
        with SwapRuntime(budget_for(one, share=1.0)) as runtime:
            yield load(runtime, one)


def run(work: Callable[[], Any]) -> None:
    """Run a coroutine in a thread of its own; one that never ends fails the test."""
    ended(lambda: asyncio.run(asyncio.wait_for(work(), LIMIT_S)))


def test_requests_of_several_tasks_are_answered(one: Simulated, model: Model) -> None:
    async def ask() -> None:
        out = np.zeros(1)
        tasks = [model.infer(one.feeds(value)) for value in range(4)]
        answers = await asyncio.gather(*tasks, model.infer(one.feeds(9.0), {"y": out}))
        for value, outputs in enumerate(answers[:-1]):
            one.check(outputs, value)
        assert answers[-1]["y"] is out
        one.check({"y": out}, 9.0)

    run(ask)


def test_the_event_loop_goes_on_meanwhile(
    one: Simulated, model: Model, steps: dict[str, Callable[[Step], None]]
) -> None:
    """The inference ends only when another task of the loop lets it."""
    gate = steps["a"] = Gate()

    async def ask() -> None:
        asked = asyncio.create_task(model.infer(one.feeds(1.0)))
        while not gate.reached.is_set():
            await asyncio.sleep(0.001)
        assert not asked.done()
        gate.open.set()
        one.check(await asked, 1.0)

    run(ask)


def test_a_cancelled_request_that_waits_is_not_served(
    one: Simulated, model: Model, steps: dict[str, Callable[[Step], None]]
) -> None:
    begun: list[int] = []
    gate = Gate()

    def note(step: Step) -> None:
        begun.append(step.first)
        gate(step)

    steps["a"] = note

    async def ask() -> None:
        running, waiting, last = (
            asyncio.create_task(model.infer(one.feeds(value))) for value in range(3)
        )
        while not gate.reached.is_set():
            await asyncio.sleep(0.001)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        gate.open.set()
        one.check(await running, 0.0)
        one.check(await last, 2.0)

    run(ask)
    assert begun.count(0) == 2


@pytest.mark.parametrize("model", ["executor"], indirect=True)
def test_one_that_runs_goes_on_after_it_is_cancelled(
    one: Simulated, model: Model, steps: dict[str, Callable[[Step], None]]
) -> None:
    gate = steps["a"] = Gate()
    out = np.zeros(1)

    async def ask() -> None:
        running = asyncio.create_task(model.infer(one.feeds(1.0), {"y": out}))
        while not gate.reached.is_set():
            await asyncio.sleep(0.001)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        gate.open.set()
        one.check(await model.infer(one.feeds(2.0)), 2.0)
        one.check({"y": out}, 1.0)

    run(ask)


def test_errors_are_raised_where_it_is_awaited(one: Simulated, model: Model) -> None:
    async def ask() -> None:
        with pytest.raises(InputError):
            await model.infer({})
        x = np.zeros(1)
        with pytest.raises(InputError, match="overlaps"):
            await model.infer({"x": x}, {"y": x})
        one.check(await model.infer(one.feeds()))

    run(ask)


def test_a_closed_executor_says_so(one: Simulated) -> None:
    executor = SwapExecutor(one.folder, "100%")
    executor.close()

    async def ask() -> None:
        with pytest.raises(BackendError, match="closed"):
            await executor.infer(one.feeds())

    run(ask)
