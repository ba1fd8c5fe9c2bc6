"""Several models under one budget: what is refused, who gets how much, and when it changes."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest

from swapnet.errors import BackendError, BudgetError, InputError, StorageError
from swapnet.executor import Device, RuntimeModel, SwapExecutor, SwapRuntime
from swapnet.executor.runtime.division import Rehearsed, WholeModels, division_for
from swapnet.executor.runtime.engine import open_engine
from swapnet.executor.runtime.memory import together
from swapnet.executor.runtime.split import Claim, cost_of
from swapnet.executor.runtime.terms import Changes, Terms
from swapnet.executor.swapping.storage import WeightFile
from swapnet.machine import memory_bytes
from swapnet.manifest import save_manifest
from tests.helpers.simulated import Gate, Simulated, budget_for, simulated
from tests.helpers.threads import LIMIT_S, ended, started

Until = Callable[[Callable[[], bool]], None]
Hooks = dict[str, Callable[[Any], None]]
Open = Callable[..., SwapRuntime]
Engines = dict[str, Simulated]

RULES = ("latency", "equal", "proportional")


@pytest.fixture
def expectations(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """Rates that are seen, by model; those expected where a test does not say."""
    seen: dict[str, float] = {}
    monkeypatch.setattr(
        RuntimeModel, "rate_per_s", lambda self: seen.get(self.name, self.terms.rate_per_s)
    )
    return seen


def load(runtime: SwapRuntime, engine: Simulated, **terms: Any) -> RuntimeModel:
    return ended(partial(runtime.load, engine.folder, **terms))


def load_all(runtime: SwapRuntime, engines: Engines, **terms: Any) -> dict[str, RuntimeModel]:
    return {name: load(runtime, one, **terms) for name, one in engines.items()}


def expected_shares(runtime: SwapRuntime, engines: Engines, rule: str = "latency") -> Any:
    """What `split` gives to the models that are loaded."""
    available = runtime.budget_bytes - together([e.manifest for e in engines.values()]).other_bytes
    claims = [
        open_engine(engines[m.name].folder, Device()).claim(m.name, m.terms) for m in runtime.models
    ]
    return division_for(rule).shares(claims, available)


@contextmanager
def asking(
    engines: Engines, models: Mapping[str, RuntimeModel], *, least: int = 3
) -> Iterator[None]:
    """Threads that ask each model until the block has ended; all answers must be right."""
    enough = threading.Event()

    def ask(name: str) -> None:
        count = 0
        while count < least or not enough.is_set():
            engines[name].ask(models[name], count)()
            count += 1

    threads = [started(partial(ask, name)) for name in models for _ in range(2)]
    try:
        yield
    finally:
        enough.set()
        for thread in threads:
            thread.result(LIMIT_S)
    assert not any(model.stats.failures for model in models.values())


# What is refused


@pytest.mark.parametrize(
    ("budget", "options", "message"),
    [
        ("25%", {}, "a budget of 25% is not for several models"),
        ("weights:25%", {}, "is not for several models"),
        ("1GiB", {"split": "best"}, "there is no split 'best'"),
        ("1GiB", {"lanes": 0}, "0 lanes execute nothing"),
        ("1GiB", {"policy": "dearest"}, "dearest"),
    ],
)
def test_what_is_none_is_refused(budget: str, options: dict[str, Any], message: str) -> None:
    threads = threading.active_count()
    with pytest.raises(InputError, match=message):
        SwapRuntime(budget, **options)
    assert threading.active_count() == threads


def test_more_than_the_machine_has_is_refused(engines: Engines, opened: Open) -> None:
    with pytest.raises(BudgetError, match="more than this machine has"):
        SwapRuntime(memory_bytes() + 1)
    runtime = opened("1GiB")
    model = load(runtime, engines["a"])
    for budget, kind in ((memory_bytes() + 1, BudgetError), ("25%", InputError)):
        with pytest.raises(kind):
            runtime.set_budget(budget)
    assert runtime.budget_bytes == 1 << 30
    engines["a"].ask(model)()


def test_a_runtime_without_models_takes_any_size(engines: Engines, opened: Open) -> None:
    runtime = opened(1)
    ended(partial(runtime.set_budget, "1KiB"))
    with pytest.raises(BudgetError, match="a do not fit in 1KiB") as found:
        load(runtime, engines["a"])
    assert (runtime.models, runtime.shares) == ((), {})
    smallest = found.value.smallest_bytes
    assert smallest is not None
    for budget in (smallest, found.value.hint.split()[3].rstrip(",")):
        ended(partial(runtime.set_budget, budget))
        with load(runtime, engines["a"]) as model:
            engines["a"].ask(model)()


def test_the_name_is_that_of_the_folder(
    engines: Engines, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(engines["a"].folder)
    model = ended(partial(opened("1GiB").load, "."))
    assert model.name == "a"


def test_an_engine_of_a_gpu_is_refused(tmp_path: Path, opened: Open) -> None:
    made = simulated(tmp_path / "g", [4096, 4096])
    compiled = msgspec.structs.replace(made.manifest.compiled, backend="tensorrt")
    save_manifest(made.folder, msgspec.structs.replace(made.manifest, compiled=compiled))
    runtime = opened("1GiB")
    with pytest.raises(BackendError, match="runs on a GPU"):
        ended(partial(runtime.load, made.folder))
    assert runtime.models == ()


def test_one_engine_may_be_loaded_twice_by_two_names(engines: Engines, opened: Open) -> None:
    runtime = opened(budget_for(engines["a"], engines["a"], share=0.7))
    one = load(runtime, engines["a"])
    with pytest.raises(InputError, match="there is a model 'a' already"):
        load(runtime, engines["a"])
    other = load(runtime, engines["a"], name="another")
    assert [model.name for model in runtime.models] == ["a", "another"]
    assert runtime.shares.keys() == {"a", "another"}
    for check in [engines["a"].ask(model, value) for value in range(3) for model in (one, other)]:
        check()
    ended(one.unload)
    engines["a"].ask(other, 5.0)()
    again = load(runtime, engines["a"])
    engines["a"].ask(again)()


def test_models_and_runtimes_are_context_managers(engines: Engines) -> None:
    threads = threading.active_count()
    with SwapRuntime("1GiB") as runtime:
        with load(runtime, engines["a"]) as model:
            check = engines["a"].ask(model)
        check()
        assert runtime.models == ()
        model = load(runtime, engines["b"])
        check = engines["b"].ask(model)
    check()
    ended(runtime.close)
    with pytest.raises(BackendError, match="the runtime is closed"):
        runtime.load(engines["a"].folder)
    with pytest.raises(BackendError, match="not loaded any more"):
        model(engines["b"].feeds())
    with pytest.raises(BackendError, match="not loaded any more"):
        ended(partial(model.update, priority=2.0))
    ended(model.unload)
    assert threading.active_count() == threads


# Done-callbacks


def in_callback(
    model: RuntimeModel, engine: Simulated, gate: Gate, work: Callable[[], object]
) -> Future[None]:
    """Call something from a done-callback of a request; the gate is where the request waits."""
    called: Future[None] = Future()

    def call(_: object) -> None:
        try:
            work()
        except Exception as error:
            called.set_exception(error)
        else:
            called.set_result(None)

    future = model.submit(engine.feeds())
    assert gate.reached.wait(LIMIT_S)
    future.add_done_callback(call)
    gate.open.set()
    return called


@pytest.mark.parametrize(
    "what",
    ["ask", "ask another", "set_budget", "load", "unload", "unload another", "update", "close"],
)
def test_a_done_callback_may_not_wait_for_its_own_thread(
    engines: Engines, steps: Hooks, opened: Open, what: str
) -> None:
    """It is told what to do instead, and all goes on."""
    steps["a"] = gate = Gate()
    runtime = opened(budget_for(*engines.values(), share=1.0))
    one, other = (load(runtime, engines[name]) for name in "ab")
    work: dict[str, Callable[[], object]] = {
        "ask": partial(one, engines["a"].feeds()),
        "ask another": partial(other, engines["b"].feeds()),
        "set_budget": partial(runtime.set_budget, "1GiB"),
        "load": partial(runtime.load, engines["c"].folder),
        "unload": one.unload,
        "unload another": other.unload,
        "update": partial(one.update, priority=3.0),
        "close": runtime.close,
    }
    before = runtime.budget_bytes, runtime.shares
    with pytest.raises(BackendError, match="here") as found:
        in_callback(one, engines["a"], gate, work[what]).result(LIMIT_S)
    assert "done-callback" in found.value.why
    assert "another thread" in found.value.hint
    assert (runtime.budget_bytes, runtime.shares) == before
    for name, model in zip("ab", (one, other), strict=True):
        engines[name].ask(model, 2.0)()


def test_a_done_callback_may_submit(engines: Engines, steps: Hooks, opened: Open) -> None:
    steps["a"] = gate = Gate()
    runtime = opened(budget_for(*engines.values(), share=1.0))
    models = [load(runtime, engines[name]) for name in "ab"]
    checks: list[Callable[[], None]] = []

    def chain() -> None:
        checks.extend(engines[n].ask(m, 7.0) for n, m in zip("ab", models, strict=True))

    in_callback(models[0], engines["a"], gate, chain).result(LIMIT_S)
    assert len(checks) == 2
    for check in checks:
        check()


# Budgets


@pytest.mark.usefixtures("expectations")
@pytest.mark.parametrize("rule", RULES)
def test_the_budget_is_halved_and_restored_under_load(
    engines: Engines, opened: Open, rule: str
) -> None:
    large, small = (budget_for(*engines.values(), share=share) for share in (0.9, 0.45))
    runtime = opened(large, split=rule)
    models = load_all(runtime, engines)
    before = runtime.shares
    assert before == expected_shares(runtime, engines, rule)
    with asking(engines, models):
        for _ in range(2):
            ended(partial(runtime.set_budget, small))
            assert runtime.budget_bytes == small
            assert runtime.shares == expected_shares(runtime, engines, rule)
            for name, share in runtime.shares.items():
                assert models[name].executor.plan.arena_bytes <= share
            ended(partial(runtime.set_budget, large))
            assert runtime.shares == before
    assert sum(model.stats.replans for model in models.values()) >= 4


@pytest.mark.usefixtures("expectations")
def test_an_impossible_budget_changes_nothing(engines: Engines, opened: Open) -> None:
    runtime = opened(budget_for(*engines.values(), share=0.8))
    models = load_all(runtime, engines)
    before = runtime.budget_bytes, runtime.shares
    with asking(engines, models):
        with pytest.raises(BudgetError, match="a, b, c do not fit") as found:
            ended(partial(runtime.set_budget, "1MiB"))
        smallest = found.value.smallest_bytes
        assert smallest is not None
        assert f"they need {smallest} bytes" in found.value.why
        assert (runtime.budget_bytes, runtime.shares) == before
        with pytest.raises(BudgetError):
            ended(partial(runtime.set_budget, smallest - 1))
        assert (runtime.budget_bytes, runtime.shares) == before
        ended(partial(runtime.set_budget, smallest))
    assert runtime.budget_bytes == smallest
    assert runtime.shares == expected_shares(runtime, engines)


@pytest.mark.usefixtures("expectations")
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
            patch.setattr("swapnet.executor.execution.load_once", broken)
            with pytest.raises(StorageError, match="cable"):
                ended(partial(runtime.set_budget, wanted))
        assert runtime.budget_bytes == large
        for name, model in models.items():
            engines[name].ask(model, 1.0)()
        ended(partial(runtime.set_budget, wanted))
        assert runtime.budget_bytes == wanted
        assert runtime.shares == expected_shares(runtime, engines)
        with asking(engines, models):
            pass


@pytest.mark.usefixtures("expectations")
def test_a_model_that_can_not_grow_hinders_no_other(
    engines: Engines, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    large, small = (budget_for(*engines.values(), share=share) for share in (0.9, 0.45))
    runtime = opened(small)
    models = load_all(runtime, engines)
    before = runtime.shares
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
    assert runtime.shares == {**wanted, "a": before["a"]}
    with asking(engines, models):
        ended(partial(runtime.set_budget, large))
    assert runtime.shares == wanted


# Terms


@pytest.mark.usefixtures("expectations")
@pytest.mark.slow
def test_terms_move_shares(engines: Engines, opened: Open) -> None:
    runtime = opened(budget_for(*engines.values(), share=0.5))
    models = load_all(runtime, engines)
    for name, model in models.items():
        before = runtime.shares
        for given in ({"priority": 50.0}, {"priority": 1.0}, {"rate_per_s": 40.0}):
            ended(partial(model.update, **given))
            assert runtime.shares == expected_shares(runtime, engines)
            if given != {"priority": 1.0}:
                assert runtime.shares[name] > before[name]
                assert runtime.shares != before
        ended(partial(model.update, rate_per_s=1.0))
        assert runtime.shares == before
        ended(partial(model.update, deadline_ms=1.0))
        assert runtime.shares == expected_shares(runtime, engines)
        assert runtime.shares[name] > before[name]
        ended(partial(model.update, deadline_ms=1e6))
        engines[name].ask(model)()


@pytest.mark.parametrize(
    "terms",
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
    engines: Engines, opened: Open, terms: dict[str, float]
) -> None:
    runtime = opened(budget_for(*engines.values(), share=0.5))
    model = load(runtime, engines["a"], priority=2.0)
    before = model.terms, runtime.shares
    with pytest.raises(InputError, match=f"{next(iter(terms))} can't be"):
        ended(partial(model.update, **terms))
    with pytest.raises(InputError, match=f"{next(iter(terms))} can't be"):
        load(runtime, engines["b"], **terms)
    assert (model.terms, runtime.shares) == before
    assert [m.name for m in runtime.models] == ["a"]


def test_several_terms_at_once_split_once(
    engines: Engines, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = opened(budget_for(*engines.values(), share=0.5))
    models = load_all(runtime, engines)
    splits: list[Mapping[str, int]] = []
    apply = runtime._apply

    def counted(shares: Mapping[str, int]) -> None:
        splits.append(shares)
        apply(shares)

    monkeypatch.setattr(runtime, "_apply", counted)
    changes: dict[RuntimeModel, Changes] = {
        models["a"]: {"priority": 9.0, "rate_per_s": 5.0},
        models["b"]: {"deadline_ms": 3.0},
    }
    ended(partial(runtime.update, changes))
    assert splits == [expected_shares(runtime, engines)]
    assert (models["a"].terms, models["b"].terms) == (Terms(9.0, None, 5.0), Terms(1.0, 3.0))


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
    before = {name: model.terms for name, model in models.items()}
    if wrong == "model":
        ended(models["b"].unload)
    last: Changes = {"priority": -1.0} if wrong == "value" else {"priority": 3.0}
    with pytest.raises(InputError if wrong == "value" else BackendError):
        ended(partial(runtime.update, {models["a"]: {"priority": 2.0}, models["b"]: last}))
    assert {name: model.terms for name, model in models.items()} == before


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
    terms = models["a"].terms
    assert (terms.priority, terms.deadline_ms, terms.rate_per_s) == (7.0, 7.0, 7.0)


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, int]]:
    """Shares that the balancer weighed by the formula, two for each look; it never rests."""
    weighed: list[dict[str, int]] = []

    def weigh(_: Rehearsed, claims: Sequence[Claim], shares: Mapping[str, int]) -> float:
        weighed.append(dict(shares))
        return cost_of(claims, shares)

    monkeypatch.setattr("swapnet.executor.runtime.division.MOST_CLAIMS", 0)
    monkeypatch.setattr(Rehearsed, "cost", weigh)
    monkeypatch.setattr("swapnet.executor.runtime.balancer._REST_S", 0.0)
    return weighed


def test_rates_that_drift_move_shares(
    engines: Engines,
    opened: Open,
    until: Until,
    expectations: dict[str, float],
    looks: list[dict[str, int]],
) -> None:
    """Not by less than a factor of two, and not where little would be saved."""
    runtime = opened(budget_for(*engines.values(), share=0.5))
    models = load_all(runtime, engines, rate_per_s=0.01)
    before = runtime.shares
    expectations.update(a=0.019, b=0.006)
    engines["a"].ask(models["a"])()
    assert not runtime._balancer._drifted.is_set()
    assert looks == []
    expectations.update(a=0.03, b=0.03, c=0.03)
    engines["a"].ask(models["a"])()
    until(lambda: len(looks) == 2)
    with runtime._balance:
        assert runtime.shares == before
    engines["a"].ask(models["a"])()
    with runtime._balance:
        assert len(looks) == 2
    expectations.update(a=1e-4, b=0.6, c=1e-4)
    engines["b"].ask(models["b"])()
    until(lambda: len(looks) == 4)
    until(lambda: runtime.shares["b"] > before["b"])
    with runtime._balance:
        assert runtime.shares == looks[2]
    with asking(engines, models):
        pass


def test_the_balancer_judges_as_the_division_does(
    engines: Engines,
    opened: Open,
    until: Until,
    expectations: dict[str, float],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Another split costs more by the formula, and less than half in a rehearsal."""
    runtime = opened(budget_for(*engines.values(), share=0.5))
    models = load_all(runtime, engines, rate_per_s=0.01)
    other = expected_shares(runtime, engines, "equal")
    assert other != runtime.shares
    monkeypatch.setattr("swapnet.executor.runtime.balancer._REST_S", 0.0)
    monkeypatch.setattr(Rehearsed, "shares", lambda *_: other)
    monkeypatch.setattr(Rehearsed, "cost", lambda _, __, shares: 1.0 if shares == other else 3.0)
    expectations.update(a=0.03)
    engines["a"].ask(models["a"])()
    until(lambda: runtime.shares == other)


def test_the_balancer_survives_what_it_can_not_do(
    engines: Engines,
    opened: Open,
    until: Until,
    expectations: dict[str, float],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    runtime = opened(budget_for(*engines.values(), share=0.5))
    models = load_all(runtime, engines, rate_per_s=0.01)
    failures: list[str] = []

    def fail(*_: object) -> float:
        failures.append("tried")
        raise MemoryError

    monkeypatch.setattr("swapnet.executor.runtime.balancer._REST_S", 0.0)
    monkeypatch.setattr(Rehearsed, "cost", fail)
    for rate in (0.03, 0.9):
        before = len(failures)
        expectations.update(a=rate)
        engines["a"].ask(models["a"])()
        until(lambda before=before: len(failures) > before)  # type: ignore[misc]
    until(lambda: "the budget keeps its split" in caplog.text)


def test_rates_that_are_seen_wake_the_balancer(
    engines: Engines, opened: Open, until: Until, looks: list[dict[str, int]]
) -> None:
    """Without a rest, asked as fast as it goes: more often than once in a thousand seconds."""
    runtime = opened(budget_for(*engines.values(), share=0.5))
    models = load_all(runtime, engines, rate_per_s=1e-3)
    before = runtime.shares
    for _ in range(30):
        engines["a"].ask(models["a"])()
    until(lambda: bool(looks))
    until(lambda: runtime.shares["a"] > before["a"])


# Whole models


@pytest.fixture
def evicted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Models that had to leave, in order; never within an inference."""
    names: list[str] = []
    real = SwapExecutor.pause

    def pause(self: SwapExecutor, *, evict: bool = False) -> None:
        if evict:
            assert not self._turn.locked()
            names.append(self.manifest.source.name)
        real(self, evict=evict)

    monkeypatch.setattr(SwapExecutor, "pause", pause)
    return names


def loaded_bytes(runtime: SwapRuntime) -> int:
    states = [model.executor._state for model in runtime.models]
    return sum(state.arena.nbytes for state in states if state is not None)


def test_whole_models_leave_least_recently_used_first(
    engines: Engines, opened: Open, evicted: list[str]
) -> None:
    """There is room for all but one."""
    runtime = opened(budget_for(*engines.values(), share=0.75), split="whole-model")
    models = load_all(runtime, engines)
    assert evicted == ["a"]
    for name in "abcabc":
        engines[name].ask(models[name])()
    assert evicted == [*"a", *"bca", *"bca"]
    for name in "cbcb":
        engines[name].ask(models[name])()
    engines["a"].ask(models["a"])()
    assert evicted == [*"a", *"bca", *"bca", "c"]


def test_a_whole_model_in_use_stays(
    engines: Engines, steps: Hooks, opened: Open, evicted: list[str]
) -> None:
    """Though others were used since."""
    runtime = opened(budget_for(*engines.values(), share=0.75), split="whole-model", lanes=2)
    models = load_all(runtime, engines)
    evicted.clear()
    steps["b"] = gate = Gate()
    check = engines["b"].ask(models["b"])
    assert gate.reached.wait(LIMIT_S)
    for name in "caca":
        engines[name].ask(models[name])()
    assert evicted == [*"cac"]
    gate.open.set()
    check()


@pytest.mark.parametrize("lanes", [1, 2])
def test_whole_models_stay_inside_the_budget(
    engines: Engines, steps: Hooks, opened: Open, evicted: list[str], lanes: int
) -> None:
    runtime = opened(
        budget_for(*engines.values(), share=0.5, lanes=lanes), split="whole-model", lanes=lanes
    )
    demand = together([one.manifest for one in engines.values()], lanes=lanes)
    available = runtime.budget_bytes - demand.other_bytes

    def look(_: object) -> None:
        assert loaded_bytes(runtime) <= available

    steps.update(dict.fromkeys(engines, look))
    models = load_all(runtime, engines)
    with asking(engines, models, least=10):
        pass
    assert set(evicted) == set(engines)
    assert sum(model.stats.read_bytes for model in models.values()) > available


def test_whole_models_get_more_while_both_are_asked(
    engines: Engines, opened: Open, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One already asks for its larger share while the other has yet to be told of its own."""
    used = {name: engines[name] for name in "ab"}
    runtime = opened(budget_for(*used.values(), share=0.3), split="whole-model")
    models = load_all(runtime, used)
    assert isinstance(runtime._division, WholeModels)
    waiting = runtime._division._residency._waiting
    checks: list[Callable[[], None]] = []
    real = RuntimeModel.between

    def asks(name: str) -> None:
        """Returns once the model waits for room, or has been served."""
        served = models[name].stats.requests
        checks.append(used[name].ask(models[name]))
        until(lambda: name in waiting or models[name].stats.requests > served)

    def between(self: RuntimeModel, change: Callable[[], None]) -> Future[None]:
        if self.name == "b":
            asks("a")
            asks("b")
        return real(self, change)

    monkeypatch.setattr(RuntimeModel, "between", between)
    ended(partial(runtime.set_budget, budget_for(*used.values(), share=1.1)))
    assert len(checks) == 2
    for check in checks:
        check()


# All at once


@pytest.mark.parametrize(("split", "lanes"), [("latency", 1), ("whole-model", 2)])
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
    assert (runtime.models, runtime.shares) == ((), {})
    ended(partial(runtime.set_budget, budgets[1]))
    models = load_all(runtime, engines)
    with asking(engines, models):
        pass
