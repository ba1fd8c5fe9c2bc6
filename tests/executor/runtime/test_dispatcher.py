"""The scheduler among threads: its decisions, and rates that differ from those expected."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import CancelledError
from contextlib import suppress
from functools import partial
from pathlib import Path
from queue import Queue

import pytest

from swapnet.errors import BackendError, BudgetError, InputError
from swapnet.executor import SwapRuntime
from swapnet.executor.planning import plan
from swapnet.executor.runtime.decisions import Decision, load_log, replay, save_log
from swapnet.executor.runtime.dispatcher import Dispatcher
from swapnet.executor.runtime.policy import Job
from swapnet.executor.runtime.scheduler import Scheduler
from swapnet.executor.runtime.share_rules import ShareRule
from swapnet.executor.runtime.split import Claim, cost_of
from tests.helpers.dispatched import serving
from tests.helpers.simulated import (
    Engines,
    asking,
    budget_for,
    expected_shares,
    load,
    load_all,
)
from tests.helpers.threads import LIMIT_S, ended, started

Until = Callable[[Callable[[], bool]], None]
Open = Callable[..., SwapRuntime]


def test_decisions_of_threads_are_those_of_the_scheduler(
    engines: Engines,
    steps: dict[str, Callable[[plan.Step], None]],
    opened: Open,
    tmp_path: Path,
) -> None:
    """Three models, changing budgets, failures and cancellations: replayed, event by event.

    Saved and loaded, the log is the same.
    """
    log: list[Decision] = []
    used = list(engines.values())
    runtime = opened(budget_for(*used, share=0.5), on_decision=log.append)
    models = load_all(runtime, engines, rate_per_s=0.01)
    broken = [True] * 4

    def fail(step: plan.Step) -> None:
        if step.first == 2 and broken:
            broken.pop()
            raise BackendError("broken")

    def ask(name: str, number: int) -> None:
        future = models[name].submit(engines[name].feeds(number))
        if number % 3 == 2:
            future.cancel()
        with suppress(BackendError, CancelledError):
            engines[name].check(future.result(LIMIT_S), number)

    def ask_often(name: str) -> None:
        for number in range(12):
            ask(name, number)

    steps["a"] = fail
    asking = [started(partial(ask_often, name)) for name in engines for _ in range(2)]
    for share in (0.4, 0.9, 0.5):
        ended(partial(runtime.set_budget, budget_for(*used, share=share)))
    runtime.update({models["a"]: {"priority": 4.0}, models["b"]: {"rate_per_s": 3.0}})
    with pytest.raises(BudgetError):
        runtime.set_budget(1)
    with pytest.raises(InputError):
        models["a"]({})
    for each in asking:
        each.result(LIMIT_S)
    ended(models["c"].unload)
    ended(runtime.close)
    save_log(log, tmp_path / "log.jsonl")
    assert list(replay(log)) == log == load_log(tmp_path / "log.jsonl")
    assert set(EVENTS) <= {decision.event for decision in log}
    done = {each.do for decision in log for each in decision.instructions}
    assert done >= {"step", "read", "serve", "change", "stop", "evict", "grant"}
    refused = [decision.args for decision in log if decision.event == "refused"]
    assert [name for name, _ in refused] == ["", "a"]
    assert "do not fit in 1B" in refused[0][1]


EVENTS = (
    *("opened", "sharing", "shared", "refused"),
    *("loaded", "planned", "divided", "expected", "asked", "cancelled", "changing", "closing"),
    *("began", "ended", "left", "landed", "halted", "done", "unloaded"),
)


def test_a_step_is_alone_when_the_others_have_ended() -> None:
    dispatcher = Dispatcher(lanes=2)
    large, other = (dispatcher.add(name, 1.0) for name in ("large", "other"))
    with serving(large), serving(other):
        for port in (large, other):
            port.tell(Scheduler.planned, port.name, 0, (0,), ())
            port.begin()
            ended(port.take)
        alone = started(large.clear)
        assert not alone.done()
        other.leave()
        assert alone.result(LIMIT_S)
        large.leave()
    ended(dispatcher.close)


def test_whoever_fails_at_decisions_stops_nothing(engines: Engines, opened: Open) -> None:
    def fail(decision: Decision) -> None:
        raise KeyError(decision)

    runtime = opened(budget_for(engines["a"], share=1.0), on_decision=fail)
    engines["a"].ask(load(runtime, engines["a"]))()


@pytest.fixture
def restless(monkeypatch: pytest.MonkeyPatch) -> None:
    """Schedulers that look at rates at every request."""
    monkeypatch.setattr("swapnet.executor.runtime.scheduler._REST_S", 0.0)


@pytest.mark.usefixtures("restless")
def test_what_can_not_be_divided_is_logged_and_tried_again(
    until: Until, caplog: pytest.LogCaptureFixture
) -> None:
    tried: Queue[str] = Queue()

    def fail() -> None:
        tried.put("tried")
        raise MemoryError

    dispatcher = Dispatcher(divide=fail)
    port = dispatcher.add("a", 9.0)
    dispatcher.tell(Scheduler.divided, 0.0, {"a": 1.0})
    for sequence in range(2):
        port.tell(Scheduler.asked, Job("a", sequence, 0.0, 1.0, 1.0, 1.0))
        assert tried.get(timeout=LIMIT_S)
    until(lambda: caplog.text.count("the budget keeps its split") == 2)
    ended(dispatcher.close)


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, int]]:
    """Shares that were weighed by the formula, two for each time that rates had drifted."""
    weighed: list[dict[str, int]] = []

    def weigh(_: ShareRule, claims: Sequence[Claim], shares: Mapping[str, int]) -> float:
        weighed.append(dict(shares))
        return cost_of(claims, shares)

    monkeypatch.setattr("swapnet.executor.runtime.share_rules.MOST_CLAIMS", 0)
    monkeypatch.setattr(ShareRule, "cost", weigh)
    return weighed


@pytest.mark.usefixtures("restless")
def test_rates_that_drift_move_shares(
    engines: Engines,
    opened: Open,
    until: Until,
    expectations: dict[str, float],
    looks: list[dict[str, int]],
) -> None:
    """Not where little would be saved."""
    runtime = opened(budget_for(*engines.values(), share=0.5))
    models = load_all(runtime, engines, rate_per_s=0.01)
    before = runtime.shares_bytes
    expectations.update(a=0.03, b=0.03, c=0.03)
    engines["a"].ask(models["a"])()
    until(lambda: len(looks) == 2)
    with runtime._balance:
        assert runtime.shares_bytes == before
    engines["a"].ask(models["a"])()
    with runtime._balance:
        assert len(looks) == 2
    expectations.update(a=1e-4, b=0.6, c=1e-4)
    engines["b"].ask(models["b"])()
    until(lambda: len(looks) == 4)
    until(lambda: runtime.shares_bytes["b"] > before["b"])
    with runtime._balance:
        assert runtime.shares_bytes == looks[2]
    with asking(engines, models):
        pass


@pytest.mark.usefixtures("restless")
def test_rates_that_drift_are_judged_as_the_rule_does(
    engines: Engines,
    opened: Open,
    until: Until,
    expectations: dict[str, float],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Another split costs more by the formula, and less than half in a simulation."""
    runtime = opened(budget_for(*engines.values(), share=0.5))
    models = load_all(runtime, engines, rate_per_s=0.01)
    other = expected_shares(runtime, engines, "equal")
    assert other != runtime.shares_bytes
    monkeypatch.setattr(ShareRule, "shares_bytes", lambda *_: other)
    monkeypatch.setattr(ShareRule, "cost", lambda _, __, shares: 1.0 if shares == other else 3.0)
    expectations.update(a=0.03)
    engines["a"].ask(models["a"])()
    until(lambda: runtime.shares_bytes == other)


@pytest.mark.usefixtures("restless")
def test_rates_that_are_seen_divide_the_budget_again(
    engines: Engines, opened: Open, until: Until, looks: list[dict[str, int]]
) -> None:
    """Without a rest, asked as fast as it goes: more often than once in a thousand seconds."""
    runtime = opened(budget_for(*engines.values(), share=0.5))
    models = load_all(runtime, engines, rate_per_s=1e-3)
    before = runtime.shares_bytes

    def has_moved() -> bool:
        engines["a"].ask(models["a"])()
        return runtime.shares_bytes["a"] > before["a"]

    until(has_moved)
    assert looks
