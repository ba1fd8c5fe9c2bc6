"""Who gets how much, when budgets or expectations change, under load."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import pytest

from swapnet.errors import BackendError, BudgetError, InputError, StorageError
from swapnet.executor import RuntimeModel, SwapRuntime
from swapnet.executor.runtime.decisions import Decision
from swapnet.executor.runtime.objectives import Changes, Objectives
from swapnet.executor.runtime.share_rules import ShareRule
from swapnet.executor.runtime.split import RULES
from swapnet.executor.swapping.storage import WeightFile
from tests.helpers.simulated import (
    Engines,
    asking,
    budget_for,
    expected_shares,
    load,
    load_all,
)
from tests.helpers.threads import LIMIT_S, ended, started, until

Open = Callable[..., SwapRuntime]


@pytest.mark.usefixtures("expectations")
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.slow
def test_the_budget_is_halved_and_restored_under_load(
    engines: Engines, opened: Open, rule: str
) -> None:
    large, small = (budget_for(*engines.values(), share=share) for share in (0.9, 0.45))
    runtime = opened(large, split=rule)
    models = load_all(runtime, engines)
    before = runtime.shares_bytes
    assert before == expected_shares(runtime, engines, rule)
    with asking(engines, models):
        for _ in range(2):
            ended(partial(runtime.set_budget, small))
            assert runtime.budget_bytes == small
            assert runtime.shares_bytes == expected_shares(runtime, engines, rule)
            for name, share in runtime.shares_bytes.items():
                assert models[name].executor.plan.arena_bytes <= share
            ended(partial(runtime.set_budget, large))
            assert runtime.shares_bytes == before
    assert sum(model.stats.replans for model in models.values()) >= 4


@pytest.mark.usefixtures("expectations")
def test_an_impossible_budget_changes_nothing(engines: Engines, opened: Open) -> None:
    runtime = opened(budget_for(*engines.values(), share=0.8))
    models = load_all(runtime, engines)
    before = runtime.budget_bytes, runtime.shares_bytes
    with asking(engines, models):
        with pytest.raises(BudgetError, match="a, b, c do not fit") as found:
            ended(partial(runtime.set_budget, "1MiB"))
        smallest = found.value.smallest_bytes
        assert smallest is not None
        assert f"they need {smallest} bytes" in found.value.why
        assert (runtime.budget_bytes, runtime.shares_bytes) == before
        with pytest.raises(BudgetError):
            ended(partial(runtime.set_budget, smallest - 1))
        assert (runtime.budget_bytes, runtime.shares_bytes) == before
        ended(partial(runtime.set_budget, smallest))
    assert runtime.budget_bytes == smallest
    assert runtime.shares_bytes == expected_shares(runtime, engines)


@pytest.mark.usefixtures("expectations")
@pytest.mark.slow
def test_plans_that_can_not_be_loaded_leave_the_larger_budget_in_force(
    engines: Engines, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    large, small = (budget_for(*engines.values(), share=share) for share in (0.9, 0.45))
    runtime = opened(large)
    models = load_all(runtime, engines)

    def broken(*_: object) -> None:
        raise StorageError("cable", why="the cable is loose")

    for now, wanted in ((large, small), (small, large)):
        ended(partial(runtime.set_budget, now))
        with monkeypatch.context() as patch:
            patch.setattr("swapnet.executor.execution.loading", broken)
            with pytest.raises(StorageError, match="cable"):
                ended(partial(runtime.set_budget, wanted))
        assert runtime.budget_bytes == large
        for name, model in models.items():
            engines[name].ask(model, 1.0)()
        ended(partial(runtime.set_budget, wanted))
        assert runtime.budget_bytes == wanted
        assert runtime.shares_bytes == expected_shares(runtime, engines)
        with asking(engines, models):
            pass


def _all_have_landed(decisions: list[Decision]) -> bool:
    given = list(decisions)
    begun = sum(told.do == "read" for decision in given for told in decision.instructions)
    return begun == sum(decision.event == "landed" for decision in given)


@pytest.mark.usefixtures("expectations")
def test_a_model_that_can_not_grow_hinders_no_other(
    engines: Engines, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    large, small = (budget_for(*engines.values(), share=share) for share in (0.9, 0.45))
    decisions: list[Decision] = []
    runtime = opened(small, on_decision=decisions.append)
    models = load_all(runtime, engines)
    before = runtime.shares_bytes
    until(lambda: _all_have_landed(decisions))  # else a read of the plan that ends may fail
    real = WeightFile.read_into

    shaken: list[WeightFile] = []

    def read_into(self: WeightFile, destination: memoryview, offset: int) -> None:
        if not shaken and self.path.parent == engines["a"].folder:
            shaken.append(self)
            raise StorageError("cable", why="the cable is loose")
        real(self, destination, offset)

    with monkeypatch.context() as patch:
        patch.setattr(WeightFile, "read_into", read_into)
        with pytest.raises(StorageError, match=r"block . could not be read"):
            ended(partial(runtime.set_budget, large))
    assert runtime.budget_bytes == large
    wanted = expected_shares(runtime, engines)
    assert runtime.shares_bytes == {**wanted, "a": before["a"]}
    with asking(engines, models):
        ended(partial(runtime.set_budget, large))
    assert runtime.shares_bytes == wanted


@pytest.mark.usefixtures("expectations")
@pytest.mark.slow
def test_terms_move_shares(engines: Engines, opened: Open) -> None:
    runtime = opened(budget_for(*engines.values(), share=0.5))
    models = load_all(runtime, engines)
    for name, model in models.items():
        before = runtime.shares_bytes
        for given in ({"priority": 50.0}, {"priority": 1.0}, {"rate_per_s": 40.0}):
            ended(partial(model.update, **given))
            assert runtime.shares_bytes == expected_shares(runtime, engines)
            if given != {"priority": 1.0}:
                assert runtime.shares_bytes[name] > before[name]
                assert runtime.shares_bytes != before
        ended(partial(model.update, rate_per_s=1.0))
        assert runtime.shares_bytes == before
        ended(partial(model.update, deadline_ms=1.0))
        assert runtime.shares_bytes == expected_shares(runtime, engines)
        assert runtime.shares_bytes[name] > before[name]
        ended(partial(model.update, deadline_ms=1e6))
        engines[name].ask(model)()


@pytest.mark.parametrize(
    "objectives",
    [
        {"priority": 0.0},
        {"priority": float("inf")},
        {"deadline_ms": -1.0},
        {"deadline_ms": 0.0},
        {"rate_per_s": -0.1},
        {"rate_per_s": float("nan")},
    ],
)
def test_terms_out_of_range_change_nothing(
    engines: Engines, opened: Open, objectives: dict[str, float]
) -> None:
    runtime = opened(budget_for(*engines.values(), share=0.5))
    model = load(runtime, engines["a"], priority=2.0)
    before = model.objectives, runtime.shares_bytes
    with pytest.raises(InputError, match=f"{next(iter(objectives))} can't be"):
        ended(partial(model.update, **objectives))
    with pytest.raises(InputError, match=f"{next(iter(objectives))} can't be"):
        load(runtime, engines["b"], **objectives)
    assert (model.objectives, runtime.shares_bytes) == before
    assert [m.name for m in runtime.models] == ["a"]


def test_several_terms_at_once_split_once(
    engines: Engines, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = opened(budget_for(*engines.values(), share=0.5))
    models = load_all(runtime, engines)
    splits: list[dict[str, int]] = []
    real = ShareRule.shares_bytes

    def counted(self: ShareRule, *given: Any) -> dict[str, int]:
        splits.append(real(self, *given))
        return splits[-1]

    changes: dict[RuntimeModel, Changes] = {
        models["a"]: {"priority": 9.0, "rate_per_s": 5.0},
        models["b"]: {"deadline_ms": 3.0},
    }
    with monkeypatch.context() as patch:
        patch.setattr(ShareRule, "shares_bytes", counted)
        ended(partial(runtime.update, changes))
    assert splits == [expected_shares(runtime, engines)] == [runtime.shares_bytes]
    assert (models["a"].objectives, models["b"].objectives) == (
        Objectives(priority=9.0, rate_per_s=5.0),
        Objectives(deadline_ms=3.0),
    )


def test_a_rate_that_is_given_counts_more_than_what_was_seen(
    engines: Engines, opened: Open
) -> None:
    runtime = opened(budget_for(*engines.values(), share=0.5))
    model = load(runtime, engines["a"], rate_per_s=0.01)
    for _ in range(20):
        engines["a"].ask(model)()
    assert model.rate_per_s() > 0.012
    ended(partial(model.update, rate_per_s=0.01))
    assert model.rate_per_s() == pytest.approx(0.01)


@pytest.mark.parametrize("wrong", ["value", "model"])
def test_if_one_of_several_is_refused_none_changes(
    engines: Engines, opened: Open, wrong: str
) -> None:
    runtime = opened(budget_for(*engines.values(), share=0.5))
    models = load_all(runtime, engines)
    before = {name: model.objectives for name, model in models.items()}
    if wrong == "model":
        ended(models["b"].unload)
    last: Changes = {"priority": -1.0} if wrong == "value" else {"priority": 3.0}
    with pytest.raises(InputError if wrong == "value" else BackendError):
        ended(partial(runtime.update, {models["a"]: {"priority": 2.0}, models["b"]: last}))
    assert {name: model.objectives for name, model in models.items()} == before


@pytest.mark.slow
def test_updates_of_different_fields_at_once_lose_nothing(engines: Engines, opened: Open) -> None:
    runtime = opened(budget_for(*engines.values(), share=0.5))
    models = load_all(runtime, engines)
    start = threading.Barrier(3, timeout=LIMIT_S)

    def update(field: str) -> None:
        start.wait()
        for value in range(1, 8):
            models["a"].update(**{field: float(value)})

    with asking(engines, models):
        for thread in [
            started(partial(update, field)) for field in ("priority", "deadline_ms", "rate_per_s")
        ]:
            thread.result(LIMIT_S)
    objectives = models["a"].objectives
    assert (objectives.priority, objectives.deadline_ms, objectives.rate_per_s) == (7.0, 7.0, 7.0)


@pytest.mark.parametrize(("split", "lanes"), [("latency", 1), ("proportional", 2)])
def test_anything_may_happen_at_any_time(
    engines: Engines, opened: Open, monkeypatch: pytest.MonkeyPatch, split: str, lanes: int
) -> None:
    """Models come, go, are asked and changed from several threads, and some reads fail."""
    budgets = [budget_for(*engines.values(), share=s, lanes=lanes) for s in (0.1, 0.5, 1.2)]
    runtime = opened(budgets[1], split=split, lanes=lanes)
    luck, real = random.Random(0), WeightFile.read_into

    def read_into(self: WeightFile, destination: memoryview, offset: int) -> None:
        if luck.random() < 0.01:
            raise StorageError("cable", why="the cable is loose")
        real(self, destination, offset)

    def work(seed: int) -> None:
        """What may fail in these ways, and in no other."""
        chosen = random.Random(seed)
        for _ in range(60):
            name, models = chosen.choice("abc"), runtime.models
            what = chosen.choice(["load", "set_budget", "ask", "ask", "ask", "update", "unload"])
            with suppress(StorageError, BudgetError, InputError, BackendError):
                if what == "load":
                    runtime.load(engines[name].folder, rate_per_s=chosen.choice([0.0, 9.0]))
                elif what == "set_budget":
                    runtime.set_budget(chosen.choice(budgets))
                elif models:
                    model = chosen.choice(models)
                    if what == "ask":
                        engines[model.name].ask(model, seed)()
                    elif what == "update":
                        model.update(priority=chosen.choice([1.0, 5.0]))
                    else:
                        model.unload()

    with monkeypatch.context() as patch:
        patch.setattr(WeightFile, "read_into", read_into)
        for thread in [started(partial(work, seed)) for seed in range(4)]:
            thread.result(LIMIT_S)
    for model in runtime.models:
        ended(model.unload)
    assert (runtime.models, runtime.shares_bytes) == ((), {})
    ended(partial(runtime.set_budget, budgets[1]))
    models = load_all(runtime, engines)
    with asking(engines, models):
        pass
