"""Values whose size depends on data: they get what the budget leaves, and weights give way."""

from __future__ import annotations

import gc
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from swapnet.builder import build
from swapnet.errors import BudgetError
from swapnet.executor import SwapExecutor
from swapnet.executor.backends.scratch import Scratch
from swapnet.executor.engine import Engine
from swapnet.executor.planning.planner import smallest_budget
from tests.helpers.engines import Arrays
from tests.helpers.growing import ROWS, choosing, rows_model

MIB = 1 << 20


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "rows.onnx"
    onnx.save(rows_model(), path)
    return path


@pytest.fixture(scope="module")
def folder(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("engine") / "rows"
    build(model, folder, max_block="1MiB")
    return folder


def assert_equal(outputs: Arrays, model: Path, given: Arrays) -> None:
    session = onnxruntime.InferenceSession(model)
    (whole,) = session.run(None, given)
    (output,) = outputs.values()
    np.testing.assert_allclose(output, whole, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_spare_budget_belongs_to_activations(folder: Path, model: Path) -> None:
    kinds: list[str] = []
    with SwapExecutor(folder, "256MiB", on_event=lambda e: kinds.append(e.kind)) as executor:
        before = executor.plan
        assert_equal(executor(choosing(ROWS)), model, choosing(ROWS))
        assert executor.plan.usage.scratch_bytes > before.usage.scratch_bytes
        assert executor.plan.planned_bytes <= 256 * MIB
        assert not executor.plan.reads, "what the plan left was enough: weights stay"
    assert kinds == ["opened", "grown", "inference", "closed"]


def test_weights_give_way_once(folder: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limits: list[int] = []
    resize = Scratch.resize

    def noted(scratch: Scratch, limit_bytes: int) -> None:
        limits.append(limit_bytes)
        resize(scratch, limit_bytes)

    monkeypatch.setattr(Scratch, "resize", noted)
    wanted = Engine.open(folder).demand.total_bytes + 4 * MIB
    with SwapExecutor(folder, wanted) as executor:
        assert not executor.plan.reads
        assert_equal(executor(choosing(700)), model, choosing(700))
        assert executor.plan.reads
        assert executor.plan.planned_bytes <= wanted
        grown = [*limits]
        for _ in range(2):
            assert_equal(executor(choosing(700)), model, choosing(700))
    assert limits == grown == sorted(grown)


@pytest.mark.slow
def test_a_refusal_names_a_budget_that_is_needed(folder: Path) -> None:
    smallest, _ = smallest_budget(Engine.open(folder).manifest)
    with SwapExecutor(folder, smallest) as executor:
        with pytest.raises(BudgetError, match="larger than planned for") as caught:
            executor(choosing(ROWS))
        assert str(smallest) in caught.value.why
        assert caught.value.smallest_bytes is not None
        assert caught.value.smallest_bytes > smallest
        few = choosing(5)
        first = executor(few)
        executor.set_budget("256MiB")
        executor(choosing(ROWS))
        executor.set_budget(smallest)
        (again,), (before,) = executor(few).values(), first.values()
        assert np.array_equal(again, before)


def test_no_session_of_the_old_arena_is_left_while_it_grows(
    folder: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even in the refusal: it came through calls that used one."""
    alive: list[int] = []
    resize = Scratch.resize

    def counted(scratch: Scratch, limit_bytes: int) -> None:
        alive.append(_sessions() - before)
        resize(scratch, limit_bytes)

    before = _sessions()
    with SwapExecutor(folder, Engine.open(folder).demand.total_bytes + 4 * MIB) as executor:
        monkeypatch.setattr(Scratch, "resize", counted)
        assert_equal(executor(choosing(700)), model, choosing(700))
    assert alive
    assert not any(alive)


def _sessions() -> int:
    return sum(isinstance(one, onnxruntime.InferenceSession) for one in gc.get_objects())
