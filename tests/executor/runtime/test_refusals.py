"""What a runtime refuses, and that nothing has changed then."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest

from swapnet.errors import BackendError, BudgetError, InputError
from swapnet.executor import SwapRuntime
from swapnet.machine import memory_bytes
from swapnet.manifest import save_manifest
from tests.helpers.simulated import (
    Engines,
    budget_for,
    load,
    simulated,
)
from tests.helpers.threads import ended, until

Open = Callable[..., SwapRuntime]


@pytest.mark.parametrize(
    ("budget", "options", "message"),
    [
        ("25%", {}, "a budget of 25% is not for several models"),
        ("auto", {}, "chosen by the measured delays of one engine"),
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
    until(lambda: threading.active_count() <= threads)


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
    with pytest.raises(BudgetError, match="a does not fit in 1KiB") as found:
        load(runtime, engines["a"])
    assert (runtime.models, runtime.shares_bytes) == ((), {})
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
    assert runtime.shares_bytes.keys() == {"a", "another"}
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
    until(lambda: threading.active_count() <= threads)
