"""Scratch memory follows the engines that are loaded, and values that did not fit."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from swapnet.errors import BackendError, BudgetError
from swapnet.executor import RuntimeModel, SwapRuntime
from swapnet.executor.backends.onnxruntime import OnnxRuntimeBackend, open_on_cpu
from swapnet.executor.backends.scratch import Scratch
from swapnet.executor.engine import Engine
from swapnet.executor.runtime.division import Division, divide
from swapnet.executor.runtime.engine_curve import with_curve
from swapnet.executor.runtime.memory import other_bytes, scratch_bytes, together
from swapnet.executor.runtime.objectives import Objectives
from swapnet.executor.runtime.share_rules import ShareRule
from tests.helpers.cycles import same
from tests.helpers.engines import Arrays, BuildToy
from tests.helpers.simulated import Engines, asking, load, simulated
from tests.helpers.threads import LIMIT_S, ended

Open = Callable[..., SwapRuntime]
Answers = Callable[[str, int], tuple[Arrays, Arrays]]

KIB, MIB = 1 << 10, 1 << 20
FEW, MANY = 16 * KIB, MIB


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Engines:
    """One that needs much scratch memory, and one that needs less."""
    folder = tmp_path_factory.mktemp("limits")
    return {
        "a": simulated(folder / "a", [160 * KIB] * 6, scratch_bytes=MANY),
        "b": simulated(folder / "b", [96 * KIB] * 5, scratch_bytes=FEW),
    }


def divided(two: Engines, budget_bytes: int, **options: Any) -> Division:
    curves = {name: with_curve(Engine.open(one.folder)) for name, one in two.items()}
    objectives = {name: Objectives() for name in two}
    return divide(ShareRule("proportional"), curves, objectives, budget_bytes, **options)


def budgets(two: Engines) -> tuple[int, int, int]:
    """The smallest one, a tight one, and one for everything."""
    demand = together([one.manifest for one in two.values()])
    return demand.smallest_bytes, demand.smallest_bytes + MANY // 2, demand.total_bytes


def test_the_limit_is_the_largest_need(two: Engines) -> None:
    smallest, tight, ample = budgets(two)
    for budget_bytes in (smallest, tight, ample):
        division = divided(two, budget_bytes)
        assert division.limit_bytes == MANY
        used = other_bytes([one.manifest for one in two.values()], MANY)
        assert used + sum(division.shares_bytes.values()) <= budget_bytes
    assert divided(two, ample, lanes=2).limit_bytes == MANY + FEW
    with pytest.raises(BudgetError, match="a, b do not fit") as caught:
        divided(two, smallest - 1)
    assert caught.value.smallest_bytes == smallest
    assert divided({}, smallest) == Division(0, {})


def test_more_scratch_memory_comes_from_weights(two: Engines) -> None:
    smallest, tight, ample = budgets(two)
    assert divided(two, ample, least_scratch_bytes=2 * MANY).limit_bytes == 2 * MANY
    most = divided(two, tight, least_scratch_bytes=2 * MANY)
    assert MANY < most.limit_bytes < 2 * MANY
    for name, share_bytes in divided(two, smallest).shares_bytes.items():
        assert most.shares_bytes[name] - share_bytes < 8 * KIB


def test_models_go_on_where_a_crossing_is_interrupted(
    two: Engines, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Interrupted(threading.Barrier):
        def wait(self, timeout: float | None = None) -> int:
            if not threading.current_thread().name.startswith("swapnet-"):
                raise KeyboardInterrupt
            return super().wait(timeout)

    runtime = opened(budgets(two)[2], split="proportional")
    small = load(runtime, two["b"])
    with monkeypatch.context() as patched:
        patched.setattr(threading, "Barrier", Interrupted)
        with pytest.raises(KeyboardInterrupt):
            load(runtime, two["a"])
    two["b"].ask(small, 1.0)()
    wide = load(runtime, two["a"])
    two["b"].ask(small, 2.0)()
    two["a"].ask(wide, 2.0)()


def test_the_limit_is_crossed_under_load(
    two: Engines, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Engines that come and go cross it, budgets do not; the sum never exceeds a budget."""
    crossed: list[int] = []
    resize = Scratch.resize

    def noted(scratch: Scratch, limit_bytes: int) -> None:
        crossed.append(limit_bytes)
        resize(scratch, limit_bytes)

    monkeypatch.setattr(Scratch, "resize", noted)
    _, tight, ample = budgets(two)
    runtime = opened(ample, split="proportional")
    models = {"b": load(runtime, two["b"])}
    assert crossed == [FEW]
    with asking(two, models):
        models["a"] = load(runtime, two["a"])
    assert crossed == [FEW, MANY]
    crossed.clear()
    manifests = [one.manifest for one in two.values()]
    with asking(two, models):
        for budget_bytes in (tight, ample, ample + MIB):
            ended(partial(runtime.set_budget, budget_bytes))
            shares = runtime.shares_bytes
            assert sum(shares.values()) <= budget_bytes - other_bytes(manifests, MANY)
            for name, share in shares.items():
                assert models[name].executor.plan.arena_bytes <= share
    assert not crossed
    ended(models["a"].unload)
    assert crossed == [scratch_bytes([two["b"].manifest])]


# Real engines


@pytest.fixture
def folders(engine: BuildToy, tmp_path: Path) -> dict[str, Path]:
    """Copies that a test may change."""
    found: dict[str, Path] = {}
    for name in ("used-twice", "images"):
        folder = tmp_path / name
        folder.mkdir()
        for path in engine(name).folder.iterdir():
            if path.name != "curve.json":
                (folder / path.name).symlink_to(path)
        found[name] = folder
    return found


def by_thread(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Threads that open sessions from here on."""
    threads: list[str] = []

    def noted(*given: Any, **options: Any) -> Any:
        threads.append(threading.current_thread().name)
        return open_on_cpu(*given, **options)

    monkeypatch.setattr("swapnet.executor.backends.onnxruntime.open_on_cpu", noted)
    return threads


@pytest.mark.parametrize("fails", [False, True])
def test_sessions_are_made_before_the_switch_where_there_is_room(
    folders: dict[str, Path],
    opened: Open,
    answers: Answers,
    monkeypatch: pytest.MonkeyPatch,
    fails: bool,
) -> None:
    """Then no model's thread opens any; a failure is that of the switch."""
    runtime = opened("256MiB")
    models = {name: runtime.load(folder) for name, folder in folders.items()}

    def check(model: RuntimeModel) -> None:
        feeds, expected = answers(model.name, 0)
        assert same(model.submit(feeds).result(LIMIT_S), expected)

    for grown_bytes in (4 * MIB, 0, 8 * MIB):
        runtime._grown_bytes = {"images": grown_bytes}
        before = runtime._scheduler.limit_bytes
        with monkeypatch.context() as patch:
            threads = by_thread(patch)
            if fails:
                patch.setattr(OnnxRuntimeBackend, "prepare_segments", refused)
            ended(partial(runtime.set_budget, "256MiB"))
            assert runtime._scheduler.limit_bytes != before
            assert threads
            assert any(name.startswith("swapnet-") for name in threads) is fails
        for model in models.values():
            check(model)


def refused(*_: Any) -> None:
    raise BackendError("refused", why="a session too many")


def test_without_room_each_model_makes_its_own(
    folders: dict[str, Path], opened: Open, answers: Answers, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = opened("256MiB")
    models = {name: runtime.load(folder) for name, folder in folders.items()}
    monkeypatch.setattr("swapnet.executor.runtime.runtime.session_bytes", lambda _: 1 << 40)
    threads = by_thread(monkeypatch)
    runtime._grown_bytes = {"images": 4 * MIB}
    ended(partial(runtime.set_budget, "256MiB"))
    assert set(threads) == {f"swapnet-{name}" for name in models}
    threads.clear()
    for model in models.values():
        feeds, expected = answers(model.name, 0)
        assert same(model.submit(feeds).result(LIMIT_S), expected)
    assert not threads, "the next request does not wait for them"
