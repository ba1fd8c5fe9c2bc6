"""Scratch memory follows the plans in force: of steps of one block, or of several."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
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
from swapnet.executor.runtime.share_rules import share_rule
from swapnet.manifest import save_manifest
from tests.helpers.cycles import same
from tests.helpers.engines import Arrays, BuildToy
from tests.helpers.simulated import Engines, asking, load_all, simulated
from tests.helpers.threads import LIMIT_S, ended

Open = Callable[..., SwapRuntime]
Answers = Callable[[str, int], tuple[Arrays, Arrays]]

KIB, MIB = 1 << 10, 1 << 20
APART, MERGED = 64 * KIB, MIB


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Engines:
    """One of two limits, and one that needs less than both."""
    folder = tmp_path_factory.mktemp("limits")
    return {
        "a": simulated(folder / "a", [160 * KIB] * 6, scratch_bytes=(APART, MERGED)),
        "b": simulated(folder / "b", [96 * KIB] * 5, scratch_bytes=(8 * KIB, 16 * KIB)),
    }


def divided(two: Engines, budget_bytes: int, **options: Any) -> Division:
    curves = {name: with_curve(Engine.open(one.folder)) for name, one in two.items()}
    objectives = {name: Objectives() for name in two}
    return divide(share_rule("proportional"), curves, objectives, budget_bytes, **options)


def budgets(two: Engines) -> tuple[int, int, int]:
    """The smallest one, a tight one, and one for everything."""
    demand = together([one.manifest for one in two.values()])
    return demand.smallest_bytes, demand.smallest_bytes + MERGED // 2, demand.total_bytes


def test_a_small_budget_has_the_limit_of_single_blocks(two: Engines) -> None:
    smallest, tight, ample = budgets(two)
    for budget_bytes, limit_bytes in ((smallest, APART), (tight, APART), (ample, MERGED)):
        division = divided(two, budget_bytes)
        assert division.limit_bytes == limit_bytes
        assert {name: terms.merged for name, terms in division.terms.items()} == {
            "a": limit_bytes == MERGED,
            "b": True,
        }
        used = other_bytes([one.manifest for one in two.values()], limit_bytes)
        assert used + sum(terms.share_bytes for terms in division.terms.values()) <= budget_bytes
    with pytest.raises(BudgetError, match="a, b do not fit") as caught:
        divided(two, smallest - 1)
    assert caught.value.smallest_bytes == smallest
    assert divided({}, smallest) == Division(0, {})


def test_more_scratch_memory_comes_from_weights(two: Engines) -> None:
    smallest, tight, ample = budgets(two)
    assert divided(two, ample, least_scratch_bytes=2 * MERGED).limit_bytes == 2 * MERGED
    most = divided(two, tight, least_scratch_bytes=2 * MERGED)
    assert APART < most.limit_bytes < MERGED
    for name, terms in divided(two, smallest).terms.items():
        assert most.terms[name].share_bytes - terms.share_bytes < 8 * KIB


def test_models_go_on_where_a_crossing_is_interrupted(
    two: Engines, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Interrupted(threading.Barrier):
        def wait(self, timeout: float | None = None) -> int:
            if not threading.current_thread().name.startswith("swapnet-"):
                raise KeyboardInterrupt
            return super().wait(timeout)

    _, tight, ample = budgets(two)
    runtime = opened(ample, split="proportional")
    models = load_all(runtime, two)
    with monkeypatch.context() as patched:
        patched.setattr(threading, "Barrier", Interrupted)
        with pytest.raises(KeyboardInterrupt):
            ended(partial(runtime.set_budget, tight))
    for name, one in two.items():
        one.ask(models[name], 1.0)()
    ended(partial(runtime.set_budget, tight))
    for name, one in two.items():
        one.ask(models[name], 2.0)()
    assert runtime.budget_bytes == tight


def test_the_limit_is_crossed_under_load(
    two: Engines, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A change inside one limit is no crossing; the sum of all parts never exceeds a budget."""
    crossed: list[int] = []
    resize = Scratch.resize

    def noted(scratch: Scratch, limit_bytes: int) -> None:
        crossed.append(limit_bytes)
        resize(scratch, limit_bytes)

    monkeypatch.setattr(Scratch, "resize", noted)
    _, tight, ample = budgets(two)
    runtime = opened(ample, split="proportional")
    models = load_all(runtime, two)
    assert crossed == [MERGED]
    manifests = [one.manifest for one in two.values()]
    with asking(two, models):
        for budget_bytes, limits in (
            (tight, [APART]),
            (tight + KIB, []),
            (ample, [MERGED]),
            (ample + MIB, []),
            (tight, [APART]),
        ):
            crossed.clear()
            ended(partial(runtime.set_budget, budget_bytes))
            assert crossed == limits
            limit = runtime._limit_bytes
            plans = [model.executor.plan for model in models.values()]
            assert max(plan.usage.scratch_bytes for plan in plans) == limit
            assert sum(runtime.shares_bytes.values()) <= budget_bytes - other_bytes(
                manifests, limit
            )
            for name, share in runtime.shares_bytes.items():
                assert models[name].executor.plan.arena_bytes <= share
    crossed.clear()
    ended(models["a"].unload)
    assert crossed == [scratch_bytes([two["b"].manifest])]


# Real engines


@pytest.fixture
def folders(engine: BuildToy, tmp_path: Path) -> dict[str, Path]:
    """Copies whose manifests say that steps of several blocks need more."""
    found: dict[str, Path] = {}
    for name in ("used-twice", "images"):
        folder = tmp_path / name
        folder.mkdir()
        for path in engine(name).folder.iterdir():
            if path.name != "curve.json":
                (folder / path.name).symlink_to(path)
        manifest = engine(name).manifest
        memory = msgspec.structs.replace(manifest.session_memory, merged_scratch_bytes=4 * MIB)
        (folder / "manifest.json").unlink()
        save_manifest(folder, msgspec.structs.replace(manifest, session_memory=memory))
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
    demand = together([Engine.open(folder).manifest for folder in folders.values()])
    runtime = opened("256MiB")
    models = {name: runtime.load(folder) for name, folder in folders.items()}

    def check(model: RuntimeModel) -> None:
        feeds, expected = answers(model.name, 0)
        assert same(model.submit(feeds).result(LIMIT_S), expected)

    for budget_bytes in (demand.smallest_bytes, "256MiB", demand.smallest_bytes):
        before = runtime._limit_bytes
        with monkeypatch.context() as patch:
            threads = by_thread(patch)
            if fails:
                patch.setattr(OnnxRuntimeBackend, "prepare_segments", refused)
            ended(partial(runtime.set_budget, budget_bytes))
            assert runtime._limit_bytes != before
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
    demand = together([Engine.open(folder).manifest for folder in folders.values()])
    ended(partial(runtime.set_budget, demand.smallest_bytes))
    assert set(threads) == {f"swapnet-{name}" for name in models}
    threads.clear()
    for model in models.values():
        feeds, expected = answers(model.name, 0)
        assert same(model.submit(feeds).result(LIMIT_S), expected)
    assert not threads, "the next request does not wait for them"
