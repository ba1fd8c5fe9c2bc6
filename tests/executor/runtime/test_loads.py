"""Engines come and go, or fail to: memory is back where it was, and others notice nothing."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from swapnet.errors import BackendError, BudgetError, EngineError, StorageError, SwapnetError
from swapnet.executor import RuntimeModel, SwapRuntime
from swapnet.executor.backends.onnxruntime import OnnxRuntimeBackend
from swapnet.executor.runtime.memory import together
from swapnet.executor.swapping.storage import WeightFile
from swapnet.manifest import MANIFEST, WEIGHTS
from tests.helpers.cycles import Used, same, settled, used
from tests.helpers.engines import Arrays, BuildToy
from tests.helpers.threads import LIMIT_S, ended, started

pytestmark = pytest.mark.slow

Open = Callable[..., SwapRuntime]
Answers = Callable[[str, int], tuple[Arrays, Arrays]]

OTHERS = ("used-twice", "dynamic")
THIRD = "transformer"
"""It needs the most scratch memory."""

_ROOT = Path(__file__).parents[3]


@pytest.mark.slow
def test_fifty_cycles_leave_nothing_behind(engine: BuildToy) -> None:
    """Beside another engine that is asked all the time, whose answers are the same bits.

    An arena of weights is 2.6 MiB, one of scratch 192 KiB, a session 100 KiB.
    """
    folders = [str(engine(name).folder) for name in ("transformer", "used-twice")]
    child = subprocess.run(
        [sys.executable, "-m", "tests.helpers.cycles", *folders, "5", "50"],
        cwd=_ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert child.returncode == 0, child.stderr
    first, last = json.loads(child.stdout)
    assert last["threads"] == first["threads"]
    assert last["descriptors"] == first["descriptors"]
    assert last["resident_bytes"] - first["resident_bytes"] < 2 << 20


# Loads that fail


@pytest.fixture
def copy(engine: BuildToy, tmp_path: Path) -> Path:
    """The third engine, to be changed."""
    return Path(shutil.copytree(engine(THIRD).folder, tmp_path / "copy"))


class Others:
    """Two that are loaded, and everything that a load that fails must leave as it is."""

    def __init__(self, runtime: SwapRuntime, engine: BuildToy, answers: Answers) -> None:
        self.runtime = runtime
        self.answers = [answers(name, 0) for name in OTHERS]
        self.models: list[RuntimeModel] = [
            ended(partial(runtime.load, engine(name).folder, name=name)) for name in OTHERS
        ]
        self.note()

    def note(self) -> None:
        """What is now is as it should be."""
        self.check()
        self.before = self.state(settled(10))

    def state(self, now: Used) -> tuple[Any, ...]:
        return (
            self.runtime.shares_bytes,
            self.runtime._scratch.limit_bytes,
            self.runtime.models,
            self.arenas(),
            now["threads"],
            now["descriptors"],
        )

    def arenas(self) -> int:
        states = [model.executor._state for model in self.runtime.models]
        return sum(state.arena.nbytes for state in states if state is not None)

    def check(self) -> None:
        for model, (feeds, expected) in zip(self.models, self.answers, strict=True):
            assert same(model.submit(feeds).result(LIMIT_S), expected)

    def check_all_as_before(self) -> None:
        """A thread that has ended may be counted for a moment."""
        self.check()
        for _ in range(100):
            if self.state(used()) == self.before:
                return
            time.sleep(0.01)
        assert self.state(used()) == self.before


@pytest.fixture
def others(engine: BuildToy, opened: Open, answers: Answers) -> Others:
    """In a budget that a third engine takes something from."""
    demand = together([engine(name).manifest for name in (*OTHERS, THIRD)])
    budget = demand.other_bytes + demand.weights_bytes // 2
    runtime = opened(budget, split="proportional")
    return Others(runtime, engine, answers)


def cut(folder: Path) -> None:
    with (folder / WEIGHTS).open("r+b") as file:
        file.truncate(4096)


def scratched(folder: Path) -> None:
    (folder / MANIFEST).write_text((folder / MANIFEST).read_text().replace("float32", "int64"))


def gone(folder: Path) -> None:
    sorted((folder / "blocks").iterdir())[-1].unlink()


def other(folder: Path) -> None:
    path = sorted((folder / "blocks").iterdir())[-1]
    path.write_bytes(path.read_bytes()[:-1])


DAMAGES: list[tuple[Callable[[Path], None], type[SwapnetError], str]] = [
    (cut, StorageError, "is damaged"),
    (lambda folder: (folder / WEIGHTS).unlink(), StorageError, WEIGHTS),
    (scratched, EngineError, MANIFEST),
    (gone, EngineError, "can't be read"),
    (other, EngineError, "was changed"),
    (lambda folder: shutil.rmtree(folder), EngineError, "not an engine directory"),
]


@pytest.mark.parametrize(("damage", "kind", "message"), DAMAGES)
def test_an_engine_that_is_damaged_leaves_others_alone(
    engine: BuildToy,
    others: Others,
    copy: Path,
    answers: Answers,
    damage: Callable[[Path], None],
    kind: type[SwapnetError],
    message: str,
) -> None:
    damage(copy)
    with pytest.raises(kind, match=message):
        ended(partial(others.runtime.load, copy))
    others.check_all_as_before()
    shutil.rmtree(copy, ignore_errors=True)
    check_repaired(others, engine, copy, answers)


def check_repaired(others: Others, engine: BuildToy, copy: Path, answers: Answers) -> None:
    """The same load works, and is undone by unloading."""
    shutil.copytree(engine(THIRD).folder, copy, dirs_exist_ok=True)
    feeds, expected = answers(THIRD, 0)
    with ended(partial(others.runtime.load, copy)) as model:
        assert others.state(used()) != others.before
        others.check()
        assert same(model.submit(feeds).result(LIMIT_S), expected)
    others.check_all_as_before()


def test_storage_that_fails_while_loading_leaves_others_alone(
    engine: BuildToy,
    others: Others,
    copy: Path,
    answers: Answers,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of what stays in memory, as far as there is room for it."""
    ended(partial(others.runtime.set_budget, "64MiB"))
    others.note()
    real = WeightFile.read_into

    def read_into(self: WeightFile, destination: memoryview, offset: int) -> None:
        if self.path.parent == copy:
            raise StorageError("cable", why="the cable is loose")
        real(self, destination, offset)

    def refuse(self: OnnxRuntimeBackend, *given: Any) -> Any:
        if self._sessions._skeletons._folder == copy:
            raise BackendError("refused", why="a session too many")
        return segments(self, *given)

    segments = OnnxRuntimeBackend.segments
    with monkeypatch.context() as patch:
        patch.setattr(WeightFile, "read_into", read_into)
        with pytest.raises(StorageError, match="could not be read"):
            ended(partial(others.runtime.load, copy))
        others.check_all_as_before()
    with monkeypatch.context() as patch:
        patch.setattr(OnnxRuntimeBackend, "segments", refuse)
        with pytest.raises(BackendError, match="refused"):
            ended(partial(others.runtime.load, copy))
        others.check_all_as_before()
    check_repaired(others, engine, copy, answers)


def test_a_load_fails_while_others_are_asked(
    others: Others, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Time after time, at each point where it may."""

    def fail(*_: Any, **__: Any) -> None:
        raise StorageError("cable", why="the cable is loose")

    def ask() -> None:
        for _ in range(12):
            others.check()

    asking = [started(ask) for _ in range(2)]
    for where in (
        "swapnet.executor.executor.open_backend",
        "swapnet.executor.engine.load_profile",
        "swapnet.executor.executor.WeightFile",
        "swapnet.executor.runtime.runtime.RuntimeModel",
    ):
        with monkeypatch.context() as patch:
            patch.setattr(where, fail)
            with pytest.raises(StorageError, match="cable"):
                ended(partial(others.runtime.load, copy))
    for thread in asking:
        thread.result(LIMIT_S)
    others.check_all_as_before()


@pytest.mark.parametrize("split", ["latency", "equal"])
def test_what_does_not_fit_says_what_would(
    engine: BuildToy, opened: Open, answers: Answers, split: str
) -> None:
    last = engine(THIRD)
    demand = together([engine(name).manifest for name in OTHERS])
    runtime = opened(demand.total_bytes, split=split)
    others = Others(runtime, engine, answers)
    with pytest.raises(BudgetError, match="used-twice, dynamic, engine do not fit") as found:
        ended(partial(runtime.load, last.folder))
    others.check_all_as_before()
    smallest = found.value.smallest_bytes
    assert smallest is not None
    ended(partial(runtime.set_budget, smallest - 1))
    with pytest.raises(BudgetError) as again:
        ended(partial(runtime.load, last.folder))
    assert again.value.smallest_bytes == smallest
    ended(partial(runtime.set_budget, smallest))
    feeds, expected = answers(THIRD, 0)
    model = ended(partial(runtime.load, last.folder))
    assert same(model.submit(feeds).result(LIMIT_S), expected)
    others.check()
