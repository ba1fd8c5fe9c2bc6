"""Whole models in one budget: the least recently used idle one is closed."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from swapnet.errors import BudgetError, StorageError
from swapnet.executor.device import Device
from swapnet.executor.planning.plan import Step
from swapnet.executor.planning.planner import make_plan, smallest_budget
from swapnet.executor.planning.usage import demand, usage
from swapnet.executor.runtime.memory import together
from swapnet.executor.scenario.baselines import WholeModel, WholeModels
from swapnet.executor.swapping.storage import WeightFile
from tests.helpers.simulated import Gate, Simulated, hooked_steps, simulated
from tests.helpers.threads import LIMIT_S, ended, started

KIB = 1 << 10
SIZES = {"a": [40 * KIB] * 4, "b": [24 * KIB] * 5, "c": [64 * KIB, 8 * KIB, 32 * KIB]}

Hooks = dict[str, Callable[[Step], None]]
Opened = Callable[..., tuple[WholeModels, dict[str, WholeModel]]]


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Simulated]:
    folder = tmp_path_factory.mktemp("whole")
    return {name: simulated(folder / name, sizes) for name, sizes in SIZES.items()}


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Hooks:
    """What is called before each step, by engine."""
    return hooked_steps(monkeypatch)


@pytest.fixture
def opened(engines: dict[str, Simulated]) -> Iterator[Opened]:
    """Loads all engines into so many bytes; the last one loaded is the last one used."""
    made: list[WholeModels] = []

    def opened(budget_bytes: int, **options: int) -> tuple[WholeModels, dict[str, WholeModel]]:
        memory = WholeModels(budget_bytes, device=Device(1), **options)
        made.append(memory)
        return memory, {
            name: ended(partial(memory.load, one.folder, name=name))
            for name, one in engines.items()
        }

    yield opened
    for memory in made:
        ended(memory.close)


def other(engines: dict[str, Simulated], lanes: int = 1) -> int:
    """Memory of all models beside weights."""
    return together([one.manifest for one in engines.values()], lanes=lanes).other_bytes


def whole(engines: dict[str, Simulated], names: str = "abc", lanes: int = 1) -> int:
    """A budget in which the weights of these models fit together."""
    return other(engines, lanes) + sum(demand(engines[n].manifest).weights_bytes for n in names)


def ask(engine: Simulated, model: WholeModel, value: float = 0.0) -> None:
    engine.check(model.submit(engine.feeds(value)).result(LIMIT_S), value)


def in_memory(memory: WholeModels) -> set[str]:
    return {name for name, nbytes in memory.shares_bytes.items() if nbytes}


def test_the_least_recently_used_leaves(engines: dict[str, Simulated], opened: Opened) -> None:
    """There is room for all but one. A load closes all: scratch memory may have to grow."""
    memory, models = opened(whole(engines) - 1)
    assert in_memory(memory) == {"c"}
    for name, left in (("b", "bc"), ("a", "ba"), ("b", "ba"), ("c", "bc"), ("c", "bc")):
        ask(engines[name], models[name])
        assert in_memory(memory) == set(left)


def test_all_stay_where_there_is_room(engines: dict[str, Simulated], opened: Opened) -> None:
    memory, models = opened(whole(engines))
    for name in "abc":
        ask(engines[name], models[name])
    read_bytes = {name: model.stats.read_bytes for name, model in models.items()}
    weights = {name: one.manifest.weights_nbytes for name, one in engines.items()}
    assert read_bytes == {"a": 2 * weights["a"], "b": 2 * weights["b"], "c": weights["c"]}
    for name in "abcabc":
        ask(engines[name], models[name])
    assert in_memory(memory) == set("abc")
    assert read_bytes == {name: model.stats.read_bytes for name, model in models.items()}


def test_a_model_larger_than_the_memory_is_swapped_in_all_of_it(
    engines: dict[str, Simulated], opened: Opened
) -> None:
    manifests = [one.manifest for one in engines.values()]
    most = max(smallest_budget(m)[0] - usage(m).total_bytes for m in manifests) + 16 * KIB
    memory, models = opened(other(engines) + most)
    for name in "abca":
        before = models[name].stats.read_bytes
        ask(engines[name], models[name])
        assert in_memory(memory) == {name}
        assert memory.shares_bytes[name] == min(most, demand(engines[name].manifest).weights_bytes)
        assert models[name].stats.read_bytes > before


def test_plans_are_searched_once_for_each_budget(
    engines: dict[str, Simulated], opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned: list[int] = []

    def counted(*given: object, **options: object) -> object:
        planned.append(given[2])  # type: ignore[arg-type]
        return make_plan(*given, **options)  # type: ignore[arg-type]

    monkeypatch.setattr("swapnet.executor.scenario.baselines.make_plan", counted)
    monkeypatch.setattr("swapnet.executor.executor.make_plan", counted)
    _, models = opened(whole(engines, "c"))
    for name in "abcabc":
        ask(engines[name], models[name])
    count = len(planned)
    for name in "abcabc":
        ask(engines[name], models[name])
    assert len(planned) == count


def test_a_model_in_use_stays(engines: dict[str, Simulated], steps: Hooks, opened: Opened) -> None:
    """Though others were used since."""
    memory, models = opened(whole(engines, lanes=2) - 1, lanes=2)
    gate = Gate()
    steps["b"] = gate
    future = models["b"].submit(engines["b"].feeds())
    assert gate.reached.wait(LIMIT_S)
    for name in "caca":
        ask(engines[name], models[name])
        assert in_memory(memory) == {"b", name}
    assert models["b"].stats.waiting == 0
    gate.open.set()
    engines["b"].check(future.result(LIMIT_S))


def test_less_memory_is_kept_when_the_change_returns(
    engines: dict[str, Simulated], steps: Hooks, opened: Opened
) -> None:
    memory, models = opened(whole(engines))
    gate = Gate()
    steps["a"] = gate
    future = models["a"].submit(engines["a"].feeds())
    assert gate.reached.wait(LIMIT_S)
    changed = started(partial(memory.set_budget, whole(engines, "c")))
    gate.open.set()
    engines["a"].check(future.result(LIMIT_S))
    changed.result(LIMIT_S)
    assert sum(memory.shares_bytes.values()) <= demand(engines["c"].manifest).weights_bytes
    for name in "abc":
        ask(engines[name], models[name])
        assert in_memory(memory) == {name}
    ended(partial(memory.set_budget, whole(engines)))
    for name in "abc":
        ask(engines[name], models[name])
    assert in_memory(memory) == set("abc")


def test_what_does_not_fit_alone_is_refused(engines: dict[str, Simulated], opened: Opened) -> None:
    memory, models = opened(whole(engines))
    with pytest.raises(BudgetError):
        ended(partial(memory.set_budget, other(engines) + KIB))
    assert memory.budget_bytes == whole(engines)
    ask(engines["a"], models["a"])
    small = WholeModels(1 << 20, device=Device(1))
    with pytest.raises(BudgetError):
        ended(partial(small.load, engines["a"].folder, name="a"))
    assert small.shares_bytes == {}
    ended(small.close)


def test_a_model_that_can_not_be_opened_leaves_room_for_others(
    engines: dict[str, Simulated], opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory, models = opened(whole(engines) - 1)
    real = WeightFile.read_into

    def read_into(self: WeightFile, destination: memoryview, offset: int) -> None:
        if self.path.parent == engines["a"].folder:
            raise StorageError("cable", why="the cable is loose")
        real(self, destination, offset)

    with monkeypatch.context() as patch:
        patch.setattr(WeightFile, "read_into", read_into)
        with pytest.raises(StorageError, match="could not be read"):
            models["a"].submit(engines["a"].feeds()).result(LIMIT_S)
        assert "a" not in in_memory(memory)
        ask(engines["b"], models["b"])
    ask(engines["a"], models["a"])


@pytest.mark.parametrize("lanes", [1, 2])
def test_memory_is_never_overcommitted(
    engines: dict[str, Simulated], steps: Hooks, opened: Opened, lanes: int
) -> None:
    budget_bytes = whole(engines, "ab", lanes) - KIB
    memory, models = opened(budget_bytes, lanes=lanes)
    available = budget_bytes - other(engines, lanes)
    wrong: list[dict[str, int]] = []

    def look(_: Step) -> None:
        if sum((shares := memory.shares_bytes).values()) > available:
            wrong.append(shares)

    steps.update(dict.fromkeys(engines, look))
    start = threading.Barrier(3, timeout=LIMIT_S)

    def use(seed: int) -> None:
        chance = random.Random(seed)
        start.wait()
        for value in range(25):
            name = chance.choice("abc")
            ask(engines[name], models[name], value)

    for user in [started(partial(use, seed)) for seed in range(3)]:
        user.result(LIMIT_S)
    assert wrong == []


def test_requests_that_were_submitted_are_answered(
    engines: dict[str, Simulated],
) -> None:
    memory = WholeModels(whole(engines), device=Device(1))
    model = ended(partial(memory.load, engines["a"].folder, name="a"))
    futures = [model.submit(engines["a"].feeds(value)) for value in range(4)]
    ended(memory.close)
    for value, future in enumerate(futures):
        engines["a"].check(future.result(0), value)
    assert in_memory(memory) == set()
