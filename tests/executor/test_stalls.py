"""Storage that does not answer: requests fail in time, closing ends, and no late byte is used."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from swapnet.errors import InputError, StorageError
from swapnet.executor import RuntimeModel, SwapExecutor, SwapRuntime
from swapnet.executor.swapping.patience import Patience, StalledError
from swapnet.testing.gpu import SimulatedAccelerator
from tests.helpers.engines import Arrays, BuildToy, Engine, assert_same
from tests.helpers.threads import LIMIT_S, ended, started, until

SHORT_MS = 1000.0
"""More than a healthy request takes on a busy machine."""


class Gate:
    """Storage that answers while it is open."""

    def __init__(self) -> None:
        self._read = os.preadv
        self._open = threading.Event()
        self._lock = threading.Lock()
        self.waiting = 0
        self.open()

    def open(self) -> None:
        self._open.set()

    def shut(self) -> None:
        self._open.clear()

    def __call__(self, *request: Any) -> int:
        with self._lock:
            self.waiting += 1
        assert self._open.wait(LIMIT_S)
        with self._lock:
            self.waiting -= 1
        return self._read(*request)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    gate = Gate()
    monkeypatch.setattr(os, "preadv", gate)
    yield gate
    gate.open()
    until(lambda: gate.waiting == 0)


@pytest.fixture
def toy(engine: BuildToy) -> Engine:
    """Blocks of 16 KiB, three of which share a weight."""
    return engine("used-twice")


@pytest.fixture
def expected(toy: Engine, tmp_path: Path) -> Arrays:
    return toy.whole(toy.feeds(), tmp_path)


def opened(toy: Engine, budget: int | None = None) -> SwapExecutor:
    return SwapExecutor(toy.folder, budget or toy.smallest, storage_timeout_ms=SHORT_MS)


def fails(work: Callable[[], object]) -> StorageError:
    with pytest.raises(StorageError) as caught:
        ended(work)
    assert "storage_timeout_ms" in caught.value.hint
    assert f"the limit is {SHORT_MS:g} ms" in caught.value.why
    return caught.value


def recovers(model: SwapExecutor | RuntimeModel, feeds: Arrays, gate: Gate) -> None:
    """Storage answers again: late requests land, and inferences succeed."""
    gate.open()
    until(lambda: gate.waiting == 0)
    until(lambda: model.submit(feeds).exception(LIMIT_S) is None)


def infer_all(executor: SwapExecutor, feeds: Arrays) -> None:
    """Infer until a read is asked for that was not there in advance."""
    for _ in range(3):
        executor(feeds)


@pytest.mark.slow
def test_an_inference_fails_in_time_and_the_next_is_right(
    toy: Engine, expected: Arrays, gate: Gate
) -> None:
    with opened(toy) as executor:
        assert_same(executor(toy.feeds()), expected)
        gate.shut()
        error = fails(partial(infer_all, executor, toy.feeds()))
        assert error.what.startswith("block ")
        assert "bytes at" in error.why
        fails(lambda: executor(toy.feeds()))
        assert isinstance(executor.submit(toy.feeds()).exception(LIMIT_S), StorageError)
        recovers(executor, toy.feeds(), gate)
        for _ in range(3):
            assert_same(executor(toy.feeds()), expected)


@pytest.mark.slow
def test_closing_does_not_wait_for_ever(toy: Engine, gate: Gate) -> None:
    executor = opened(toy)
    gate.shut()
    futures = [executor.submit(toy.feeds()) for _ in range(4)]
    ended(executor.close)
    ended(executor.close)
    assert isinstance(futures[-1].exception(LIMIT_S), StorageError)


def test_a_limit_is_shorter_while_closing() -> None:
    patience = Patience(60_000)
    since_s = 0.0
    before = patience.left_s(since_s)
    assert patience.hurried().left_s(since_s) == pytest.approx(before - 55, abs=5)
    patience.hurry()
    assert patience.left_s(since_s) == pytest.approx(before - 55, abs=5)
    quick = Patience(100)
    quick.hurry()
    assert "the limit is 100 ms" in quick.error("block 0", 1, 2, since_s).why


@pytest.mark.slow
@pytest.mark.parametrize("to", ["smaller", "larger"])
def test_a_budget_changes_and_no_late_byte_is_used(
    toy: Engine, expected: Arrays, gate: Gate, to: str
) -> None:
    budgets = (toy.smallest, toy.demand)
    before, after = budgets if to == "larger" else budgets[::-1]
    with opened(toy, before) as executor:
        assert_same(executor(toy.feeds()), expected)
        gate.shut()
        changing = started(lambda: executor.set_budget(after))
        changing.exception(LIMIT_S)
        assert isinstance(executor.submit(toy.feeds()).exception(LIMIT_S), StorageError)
        recovers(executor, toy.feeds(), gate)
        for _ in range(3):
            assert_same(executor(toy.feeds()), expected)
        executor.set_budget(after)
        assert_same(executor(toy.feeds()), expected)
        assert executor.plan.budget_bytes == after


@pytest.mark.slow
def test_opening_fails_in_time(toy: Engine, gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    from swapnet.executor.swapping import storage

    real = storage._open

    def open_first(*given: Any) -> Any:
        gate.open()
        opened_file = real(*given)
        gate.shut()
        return opened_file

    monkeypatch.setattr(storage, "_open", open_first)
    assert fails(lambda: opened(toy, toy.demand)).what.startswith(("block ", "weights that"))


@pytest.mark.slow
def test_rows_are_not_waited_for_for_ever(engine: BuildToy, gate: Gate, tmp_path: Path) -> None:
    toy = engine("only-lookup")
    feeds = toy.feeds()
    with SwapExecutor(toy.folder, "100%", storage_timeout_ms=SHORT_MS) as executor:
        gate.shut()
        assert fails(lambda: executor(feeds)).what.startswith("block 0")
        assert isinstance(executor.submit(feeds).exception(LIMIT_S), StorageError)
        recovers(executor, feeds, gate)
        assert_same(executor(feeds), toy.whole(feeds, tmp_path))


@pytest.mark.slow
def test_models_of_a_runtime_fail_come_and_go(engine: BuildToy, gate: Gate, tmp_path: Path) -> None:
    toys = [engine("used-twice"), engine("lookups")]
    runtime = SwapRuntime(sum(toy.demand for toy in toys), storage_timeout_ms=SHORT_MS)
    first, second = (ended(partial(runtime.load, t.folder, name=t.model.stem)) for t in toys)
    runtime.set_budget(sum(toy.smallest for toy in toys) + (1 << 20))
    gate.shut()
    failed = [first.submit(toys[0].feeds()) for _ in range(3)] + [second.submit(toys[1].feeds())]
    assert isinstance(failed[-1].exception(LIMIT_S), StorageError)
    ended(partial(runtime.unload, first))
    recovers(second, toys[1].feeds(), gate)
    assert_same(second(toys[1].feeds()), toys[1].whole(toys[1].feeds(), tmp_path))
    gate.shut()
    second.submit(toys[1].feeds())
    ended(runtime.close)


@pytest.mark.slow
def test_memory_of_a_gpu_stays_where_a_late_byte_may_come(
    gpu_engine: Callable[..., Path], gate: Gate
) -> None:
    folder = gpu_engine("used-twice")
    gpu = SimulatedAccelerator()
    executor = SwapExecutor(folder, "weights:60%", gpu=gpu, storage_timeout_ms=SHORT_MS)
    free = gpu.free_bytes()
    gate.shut()
    names = {t.name: t for t in executor.manifest.inputs}
    shapes = executor.manifest.planned_shapes
    feeds = {name: np.zeros(shapes[name], tensor.dtype) for name, tensor in names.items()}
    fails(partial(infer_all, executor, feeds))
    ended(executor.close)
    assert gpu.free_bytes() <= free


@pytest.mark.parametrize("limit_ms", [0, -1, float("nan")])
def test_a_limit_is_above_0(toy: Engine, limit_ms: float) -> None:
    with pytest.raises(InputError, match="storage_timeout_ms"):
        SwapExecutor(toy.folder, "100%", storage_timeout_ms=limit_ms)
    with pytest.raises(InputError, match="storage_timeout_ms"):
        SwapRuntime("64MiB", storage_timeout_ms=limit_ms)
    assert issubclass(StalledError, StorageError)
