"""Several models under one budget: what is refused, who gets how much, and when it changes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest

from swapnet.errors import BackendError, BudgetError, InputError, StorageError
from swapnet.executor import Device, RuntimeModel, SwapRuntime
from swapnet.executor.machine import memory_bytes
from swapnet.executor.runtime.engine import open_engine
from swapnet.executor.runtime.memory import together
from swapnet.executor.runtime.split import split
from swapnet.executor.storage import WeightFile
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
    return {share.name: share.nbytes for share in split(claims, available, rule=rule)}


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
        for _ in range(4):
            ended(partial(runtime.set_budget, small))
            assert runtime.budget_bytes == small
            assert runtime.shares == expected_shares(runtime, engines, rule)
            for name, share in runtime.shares.items():
                assert models[name].executor.plan.arena_bytes <= share
            ended(partial(runtime.set_budget, large))
            assert runtime.shares == before
    assert all(model.stats.replans >= 8 for model in models.values())


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
