"""Engines together in less memory than they take without strips of rows."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import msgspec
import pytest

from swapnet.errors import BudgetError, StorageError
from swapnet.executor import RuntimeModel, SwapRuntime
from swapnet.executor.engine import Engine as Opened
from swapnet.executor.execution import Execution
from swapnet.executor.planning.layout import lay_out_values
from swapnet.executor.planning.usage import usage
from swapnet.executor.runtime.engine_curve import OPTIONS, EngineCurve, plan_curve
from swapnet.executor.runtime.memory import (
    inside_bytes,
    other_bytes,
    smallest_bytes,
    stripings_within,
    together,
)
from swapnet.manifest import Manifest, load_manifest, save_manifest
from swapnet.strips import Striping
from tests.helpers.engines import Arrays, BuildToy, Engine, assert_same, build_toy
from tests.helpers.striped import u_shape
from tests.helpers.threads import LIMIT_S, ended, started
from tests.helpers.zoo import Toy

Open = Callable[..., SwapRuntime]
Case = tuple[Arrays, Arrays]


@pytest.fixture(scope="module")
def striped(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    toy = Toy(lambda: u_shape(208, 164), max_block="90KiB")
    return build_toy("u", tmp_path_factory.mktemp("u"), toy)


@pytest.fixture(scope="module")
def folders(
    striped: Engine, engine: BuildToy, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """One whose blocks can be in strips, one whose strips read weights again, one without any."""
    apart = tmp_path_factory.mktemp("apart")
    for path in striped.folder.iterdir():
        (apart / path.name).symlink_to(path)
    (apart / "manifest.json").unlink()
    runs = {s: [msgspec.structs.replace(run, apart=True) for run in s.runs] for s in _ways(striped)}
    ways = tuple(msgspec.structs.replace(s, runs=tuple(each)) for s, each in runs.items())
    save_manifest(apart, msgspec.structs.replace(load_manifest(striped.folder), stripings=ways))
    return {"u": striped.folder, "apart": apart, "images": engine("images").folder}


@pytest.fixture(scope="module")
def cases(
    striped: Engine, engine: BuildToy, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Case]:
    folder = tmp_path_factory.mktemp("whole")
    found = {}
    for name, one in (("u", striped), ("apart", striped), ("images", engine("images"))):
        feeds = one.feeds()
        found[name] = feeds, one.whole(feeds, folder)
    return found


def _ways(engine: Engine) -> tuple[Striping, ...]:
    return engine.manifest.stripings


def _manifests(folders: Mapping[str, Path]) -> list[Manifest]:
    return [Opened.open(folder).manifest for folder in folders.values()]


def _stripings(runtime: SwapRuntime) -> list[Striping | None]:
    return [model.executor.plan.striping for model in runtime.models]


@pytest.fixture
def spoilt(monkeypatch: pytest.MonkeyPatch) -> None:
    """Values inside steps that are overwritten after each step, as by other models."""
    run = Execution._run

    def spoiling(self: Execution, *given: Any) -> None:
        run(self, *given)
        inside = self._values._places  # type: ignore[attr-defined]
        for arena in {id(arena): arena for arena, _ in inside.values()}.values():
            if arena is not self._values._arena:  # type: ignore[attr-defined]
                arena.fill(0, 4 << 20, 0xFF)

    monkeypatch.setattr(Execution, "_run", spoiling)


@pytest.mark.slow
@pytest.mark.usefixtures("spoilt")
def test_models_fit_together_in_strips_alone(
    folders: dict[str, Path], cases: dict[str, Case], opened: Open
) -> None:
    manifests = _manifests(folders)
    smallest, whole = together(manifests).smallest_bytes, smallest_bytes(manifests)
    assert smallest < whole - (1 << 20)
    runtime = opened(smallest)
    models = {
        name: ended(partial(runtime.load, folder, name=name)) for name, folder in folders.items()
    }

    def check() -> None:
        futures = {name: model.submit(cases[name][0]) for name, model in models.items()}
        for name, future in futures.items():
            assert_same(future.result(LIMIT_S), cases[name][1])

    def used_bytes() -> int:
        stripings = _stripings(runtime)
        limit = runtime._scheduler.limit_bytes
        return other_bytes(manifests, limit, stripings) + sum(runtime.shares_bytes.values())

    assert [each is not None for each in _stripings(runtime)] == [True, True, False]
    check()
    with _asking(models, cases):
        for budget_bytes in (whole, smallest, whole - 1, whole + (1 << 20), smallest):
            ended(partial(runtime.set_budget, budget_bytes))
            assert any(_stripings(runtime)) is (budget_bytes < whole)
            assert used_bytes() <= budget_bytes
            check()
    with pytest.raises(BudgetError) as refused:
        runtime.set_budget(smallest - 1)
    assert refused.value.smallest_bytes == smallest
    before = runtime.models[0].executor.plan.striping
    ended(models.pop("apart").unload)
    after = runtime.models[0].executor.plan.striping
    assert before is not None
    assert after is None or _ways_number(after, manifests) < _ways_number(before, manifests)
    check()


def _ways_number(striping: Striping, manifests: list[Manifest]) -> int:
    return manifests[0].stripings.index(striping)


def test_a_model_whose_plan_does_not_load_tries_again(
    folders: dict[str, Path],
    cases: dict[str, Case],
    opened: Open,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    manifests = _manifests({"u": folders["u"]})
    runtime = opened(smallest_bytes(manifests))
    model = ended(partial(runtime.load, folders["u"], name="u"))

    def refused(*_: Any, **__: Any) -> None:
        raise StorageError("refused", why="storage is gone", hint="none")

    with monkeypatch.context() as patched:
        patched.setattr("swapnet.executor.executor.Execution", refused)
        with pytest.raises(StorageError, match="refused"):
            ended(partial(runtime.set_budget, together(manifests).smallest_bytes))
        with pytest.raises(StorageError, match="refused"):
            model(cases["u"][0])
    assert_same(model(cases["u"][0]), cases["u"][1])
    ended(partial(runtime.set_budget, together(manifests).smallest_bytes))
    assert _stripings(runtime) == [manifests[0].stripings[-1]]
    assert_same(model(cases["u"][0]), cases["u"][1])


@pytest.mark.parametrize("lanes", [1, 2])
def test_as_few_strips_as_fit(folders: dict[str, Path], lanes: int) -> None:
    manifests = _manifests(folders)
    whole = smallest_bytes(manifests, lanes=lanes)
    ways = [(None, *manifest.stripings) for manifest in manifests]
    needed = {way: smallest_bytes(manifests, way, lanes=lanes) for way in product(*ways)}
    smallest = together(manifests, lanes=lanes).smallest_bytes
    assert smallest <= 1.02 * min(needed.values())
    assert stripings_within(manifests, whole, lanes=lanes) == (None, None, None)
    for budget_bytes in range(smallest, whole, (whole - smallest) // 8):
        chosen = stripings_within(manifests, budget_bytes, lanes=lanes)
        assert needed[chosen] <= budget_bytes
        fewer = [(*chosen[:i], None, *chosen[i + 1 :]) for i in range(3) if chosen[i] is not None]
        assert all(needed[way] > budget_bytes for way in fewer)
    assert stripings_within([], 0) == ()


def test_values_of_strips_lie_inside_a_step_unless_others_run_between(
    folders: dict[str, Path],
) -> None:
    inside, apart = (_manifests({"": folders[name]})[0] for name in ("u", "apart"))
    for together_, separate in zip(inside.stripings, apart.stripings, strict=True):
        sizes = [
            [lay_out_values(m, s, inside=i).nbytes for i in (False, True)]
            for m, s in ((inside, together_), (apart, separate))
        ]
        assert sizes[0][0] <= sizes[1][0]
        assert sizes[0][1] >= sizes[1][1]
    assert inside_bytes([apart], [apart.stripings[-1]]) < inside_bytes([apart])


def test_a_curve_in_strips_is_planned_once(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = Opened.open(folders["u"])
    curve = EngineCurve(one, plan_curve(one.manifest, one.delays))
    striping = one.manifest.stripings[-1]
    cut = curve.in_strips(striping)
    assert cut.options == replace(OPTIONS, strips=striping)
    assert cut.budget(0) == usage(one.manifest, striping).total_bytes
    assert cut.points[0].budget_bytes < curve.points[0].budget_bytes
    monkeypatch.setattr("swapnet.executor.runtime.engine_curve.plan_curve", None)
    assert cut.in_strips(None) == curve
    assert curve.in_strips(striping) == cut


class _asking:
    """Ask all models until the block has ended; each answer must be right."""

    def __init__(self, models: Mapping[str, RuntimeModel], cases: Mapping[str, Case]) -> None:
        self._models, self._cases, self._enough = models, cases, threading.Event()

    def _ask(self, name: str) -> None:
        while not self._enough.is_set():
            feeds, expected = self._cases[name]
            assert_same(self._models[name].submit(feeds).result(LIMIT_S), expected)

    def __enter__(self) -> None:
        self._threads = [started(partial(self._ask, name)) for name in self._models]

    def __exit__(self, *_: object) -> None:
        self._enough.set()
        for thread in self._threads:
            thread.result(LIMIT_S)
