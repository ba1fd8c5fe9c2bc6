"""Values whose size depends on data, beside other models: weights of all give way to them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from swapnet.builder import build
from swapnet.errors import BudgetError
from swapnet.executor import RuntimeModel, SwapExecutor, SwapRuntime
from swapnet.executor.backends.scratch import Scratch
from swapnet.executor.engine import Engine
from swapnet.executor.runtime.decisions import Decision, replay
from swapnet.executor.runtime.memory import most_scratch_bytes, together
from swapnet.manifest import Manifest
from swapnet.process.cgroup import MemoryGroup, is_available
from swapnet.units import align_up
from tests.helpers.cycles import same
from tests.helpers.engines import Arrays
from tests.helpers.growing import ROWS, choosing, rows_model
from tests.helpers.threads import LIMIT_S, ended, started

Open = Callable[..., SwapRuntime]
MIB = 1 << 20

_ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One row in a hundred is chosen by seeds, all of them by a busy picture."""
    folder = tmp_path_factory.mktemp("rows")
    onnx.save(rows_model(), folder / "rows.onnx")
    build(folder / "rows.onnx", folder / "engine", max_block="1MiB")
    return folder / "engine"


@pytest.fixture(scope="module")
def busy(folder: Path) -> tuple[Arrays, Arrays]:
    """Inputs that choose many rows, and the answer of an executor with enough memory."""
    with SwapExecutor(folder, "256MiB") as executor:
        return choosing(700), executor(choosing(700))


def budget_for(folder: Path, spare_bytes: int) -> int:
    """All weights of two models, and a little."""
    return together([Engine.open(folder).manifest] * 2).total_bytes + spare_bytes


def load_two(runtime: SwapRuntime, folder: Path) -> list[RuntimeModel]:
    return [runtime.load(folder, name=name) for name in ("detector", "other")]


@pytest.mark.slow
def test_weights_of_all_give_way_once(
    folder: Path, busy: tuple[Arrays, Arrays], opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under load; no session of the old memory is left when the new one is made."""
    limits: list[int] = []
    resize = Scratch.resize

    def noted(scratch: Scratch, limit_bytes: int) -> None:
        limits.append(limit_bytes)
        resize(scratch, limit_bytes)

    feeds, expected = busy
    few = choosing(5)
    log: list[Decision] = []
    runtime = opened(budget_for(folder, 0), on_decision=log.append)
    detector, other = load_two(runtime, folder)
    before = runtime.shares_bytes
    answer = detector(few)
    monkeypatch.setattr(Scratch, "resize", noted)

    def ask() -> None:
        for _ in range(20):
            assert same(other.submit(few).result(LIMIT_S), answer)

    asking = started(ask)
    for _ in range(3):
        assert same(detector.submit(feeds).result(LIMIT_S), expected)
    asking.result(LIMIT_S)
    assert limits == sorted(set(limits))
    assert limits[-1] == most_scratch_bytes(_manifests(folder), runtime.budget_bytes)
    assert all(share < before[name] for name, share in runtime.shares_bytes.items())
    assert [model.stats.failures for model in (detector, other)] == [0, 0]
    ended(detector.unload)
    assert runtime.shares_bytes["other"] == before["other"], "nobody needs so much any more"
    given = [each.do for decision in log for each in decision.instructions]
    assert {"evict", "resize", "grant", "resume"} <= set(given)
    assert "abandon" not in given
    assert list(replay(log)) == log


def test_spare_budget_belongs_to_values(
    folder: Path, busy: tuple[Arrays, Arrays], opened: Open
) -> None:
    feeds, expected = busy
    kinds: list[tuple[str, str]] = []
    runtime = opened("256MiB", on_event=lambda event: kinds.append((event.model, event.kind)))
    detector, _ = load_two(runtime, folder)
    before = runtime.shares_bytes
    kinds.clear()
    assert same(ended(lambda: detector(feeds)), expected)
    assert kinds == [("detector", "grown"), ("detector", "inference")], "plans stay as they are"
    assert detector.stats.execution.failures == 0
    assert runtime.shares_bytes == before
    small = budget_for(folder, 0)
    ended(lambda: runtime.set_budget(small))
    assert same(ended(lambda: detector(feeds)), expected)
    assert runtime.shares_bytes != before


def test_a_refusal_names_a_budget_that_is_needed(folder: Path, opened: Open) -> None:
    smallest = together(_manifests(folder)).smallest_bytes
    runtime = opened(smallest)
    detector, other = load_two(runtime, folder)
    with pytest.raises(BudgetError, match="larger than planned for") as caught:
        ended(lambda: detector(choosing(ROWS)))
    assert f"the budget of {smallest} leaves" in caught.value.why
    assert caught.value.smallest_bytes is not None
    assert caught.value.smallest_bytes > smallest
    assert detector.stats.failures == detector.stats.execution.failures == 1
    few = choosing(5)
    assert same(ended(lambda: detector(few)), ended(lambda: other(few)))
    ended(lambda: runtime.set_budget("256MiB"))
    assert ended(lambda: detector(choosing(ROWS)))


@pytest.mark.slow
def test_a_model_that_goes_does_not_wait_for_memory(folder: Path, opened: Open) -> None:
    """Its request is refused: whoever unloads it holds what growing would need."""
    log: list[Decision] = []
    runtime = opened(budget_for(folder, 0), on_decision=log.append)
    detector, other = load_two(runtime, folder)
    with runtime._balance:
        request = detector.submit(choosing(ROWS))
        gone = started(lambda: detector.close())
        with pytest.raises(BudgetError, match="larger than planned for"):
            request.result(LIMIT_S)
        gone.result(LIMIT_S)
        runtime._forget("detector")
    few = choosing(5)
    assert ended(lambda: other(few))
    assert "abandon" in [each.do for decision in log for each in decision.instructions]
    assert list(replay(log)) == log


def _manifests(folder: Path) -> list[Manifest]:
    return [Engine.open(folder).manifest] * 2


@pytest.mark.slow
@pytest.mark.skipif(not is_available(), reason="needs root and a cgroup memory controller")
def test_a_runtime_keeps_its_budget_under_the_kernels_limit(folder: Path) -> None:
    """Also while one model's values grow and weights of both give way."""
    budget = align_up(budget_for(folder, 4 * MIB), 4096)
    with MemoryGroup(budget) as group:
        child = subprocess.run(
            [
                sys.executable,
                "-m",
                "tests.helpers.growing",
                str(folder),
                str(budget),
                str(group.processes_file),
            ],
            cwd=_ROOT,
            capture_output=True,
            text=True,
            check=False,
            timeout=LIMIT_S,
        )
        assert child.returncode == 0, child.stderr
        assert group.peak_bytes <= budget
    shares = json.loads(child.stdout)
    assert all(after < before for before, after in shares.values())
