"""What a user is told, by which thread, and that a mistake in it changes nothing."""

from __future__ import annotations

import threading
from functools import partial
from pathlib import Path

import pytest

from swapnet.errors import BackendError, BudgetError, InputError, StorageError
from swapnet.executor import Event, PlanOptions, SwapExecutor, SwapRuntime
from swapnet.executor.execution import Execution
from swapnet.executor.swapping.patience import StalledError
from tests.helpers.engines import BuildToy, Engine
from tests.helpers.simulated import budget_for, simulated
from tests.helpers.threads import ended


@pytest.fixture
def toy(engine: BuildToy) -> Engine:
    """Blocks of 16 KiB, three of which share a weight."""
    return engine("used-twice")


def kinds(events: list[Event]) -> list[str]:
    return [event.kind for event in events]


def test_an_executor_tells_what_happens(toy: Engine) -> None:
    events: list[Event] = []
    with SwapExecutor(toy.folder, toy.smallest, on_event=events.append) as executor:
        executor(toy.feeds())
        first, last = executor.plan, executor.stats.last
        executor.set_budget("100%")
        with pytest.raises(BudgetError):
            executor.set_budget(1)
        with pytest.raises(InputError):
            executor({})
        assert executor.submit({}).exception()
    executor.close()
    assert kinds(events) == ["opened", "inference", "plan", "refused", "refused", "closed"]
    assert {event.model for event in events} == {"engine"}
    assert events[1].inference is last
    assert [event.plan for event in events[:2]] == [first, first]
    assert events[2].plan is executor.plan
    assert isinstance(events[3].error, InputError)
    times = [event.time for event in events]
    assert times == sorted(times)


@pytest.mark.parametrize(
    ("error", "expected"),
    [(StorageError, ["failed"]), (StalledError, ["late", "failed"])],
)
def test_a_failed_inference_is_told_with_its_error(
    toy: Engine,
    monkeypatch: pytest.MonkeyPatch,
    error: type[StorageError],
    expected: list[str],
) -> None:
    events: list[Event] = []
    options = PlanOptions(resident=False, cyclic=False)
    with SwapExecutor(
        toy.folder, toy.smallest, options=options, on_event=events.append
    ) as executor:

        def infer(*_: object) -> None:
            raise error("lost")

        with monkeypatch.context() as patched:
            patched.setattr(Execution, "infer", infer)
            with pytest.raises(error):
                executor(toy.feeds())
        executor(toy.feeds())
    assert kinds(events) == ["opened", *expected, "inference", "closed"]
    assert all(isinstance(event.error, error) for event in events[1:-2])


def test_the_callable_may_use_the_executor(toy: Engine) -> None:
    """Whichever thread calls it, no lock is held."""
    threads: list[str] = []

    def shrink(event: Event) -> None:
        if event.kind == "inference":
            threads.append(threading.current_thread().name)
            executor.set_budget(toy.smallest + len(threads) * 4096)

    with SwapExecutor(toy.folder, toy.smallest, on_event=shrink) as executor:
        ended(lambda: executor(toy.feeds()))
        ended(executor.submit(toy.feeds()).result)
        assert executor.plan.budget_bytes == toy.smallest + 2 * 4096
    assert threads[1].startswith("swapnet-submit")


def test_its_exceptions_are_logged_once(toy: Engine, caplog: pytest.LogCaptureFixture) -> None:
    def broken(_: Event) -> None:
        raise ValueError("a mistake of the user")

    with SwapExecutor(toy.folder, toy.smallest, on_event=broken) as executor:
        executor(toy.feeds())
        assert executor.stats.failures == 0
    (record,) = [r for r in caplog.records if "on_event" in r.message]
    assert record.exc_info is not None
    assert "a mistake of the user" in str(record.exc_info[1])


def test_models_can_not_change_in_the_middle_of_a_change(tmp_path: Path) -> None:
    one = simulated(tmp_path / "a", [40 << 10] * 4)
    refused: list[str] = []

    def change(event: Event) -> None:
        try:
            runtime.set_budget("1GiB")
        except BackendError as error:
            refused.append(f"{event.kind}: {error.why}")

    budget = budget_for(one, share=1.0)
    runtime = SwapRuntime(budget, on_event=change)
    model = ended(partial(runtime.load, one.folder))
    one.ask(model, 1.0)()
    ended(runtime.close)
    opened, served, closed = refused
    assert opened.startswith("opened: this is on_event, which is called in the middle")
    assert served.startswith("inference: this is a done-callback, or on_event, on the thread of a")
    assert closed.startswith("closed: this is on_event")
    assert runtime.budget_bytes == budget


def test_a_runtime_tells_the_events_of_its_models(tmp_path: Path) -> None:
    one = simulated(tmp_path / "a", [40 << 10] * 4)
    other = simulated(tmp_path / "b", [40 << 10] * 4)
    events: list[Event] = []
    budget = budget_for(one, other, share=1.2)
    with SwapRuntime(budget, split="equal", on_event=events.append) as runtime:
        models = [
            ended(partial(runtime.load, e.folder, name=name))
            for name, e in (("first", one), ("second", other))
        ]
        one.ask(models[0], 1.0)()
        assert models[0].submit({}).exception()
        assert models[0].stats.execution.refused == 1
        before = len(events)
        ended(partial(runtime.set_budget, budget_for(one, other, share=0.8)))
        assert "plan" in kinds(events[before:])
    assert {event.model for event in events} == {"first", "second"}
    for name in ("first", "second"):
        of_model = kinds([event for event in events if event.model == name])
        assert of_model[0] == "opened"
        assert of_model[-1] == "closed"
    assert {"inference", "refused"} <= set(kinds(events))
