from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from swapnet.builder import build
from swapnet.errors import BudgetError
from swapnet.executor import SwapExecutor, SwapRuntime
from swapnet.executor.planning.usage import demand, usage
from swapnet.executor.runtime.memory import (
    is_interruptible,
    scratch_bytes,
    sizes_may_depend_on_data,
    together,
)
from tests.helpers.engines import BuildToy
from tests.helpers.zoo import Net


def test_scratch_memory_counts_once_for_each_lane(engine: BuildToy) -> None:
    manifests = [engine(name).manifest for name in ("images", "used-twice", "dynamic")]
    sizes = sorted((usage(one).scratch_bytes for one in manifests), reverse=True)
    assert [scratch_bytes(manifests, lanes=n) for n in (1, 2, 3, 4)] == [
        sizes[0],
        sum(sizes[:2]),
        sum(sizes),
        sum(sizes),
    ]
    assert scratch_bytes([]) == 0


def test_weights_are_those_of_all(engine: BuildToy) -> None:
    manifests = [engine(name).manifest for name in ("images", "used-twice", "lookups")]
    assert together(manifests).weights_bytes == sum(demand(m).weights_bytes for m in manifests)


def test_another_engine_never_needs_less(engine: BuildToy) -> None:
    manifests = [engine(name).manifest for name in ("used-twice", "images", "transformer")]
    sizes = [together(manifests[:count]).other_bytes for count in range(4)]
    assert sizes == sorted(sizes)
    kept = usage(manifests[2])
    assert sizes[3] - sizes[2] >= kept.values_bytes + kept.io_bytes + kept.process_bytes


def test_values_of_unknown_size_are_not_interrupted(engine: BuildToy) -> None:
    assert is_interruptible(engine("used-twice").manifest)
    assert not is_interruptible(engine("dynamic").manifest)


def test_values_that_data_decides_have_what_the_budget_leaves(tmp_path: Path) -> None:
    """One row in a hundred is chosen by seeds, all of them by a busy picture."""
    net = Net()
    chosen = net("Greater", net.input("score", (4096,)), net.constant(np.array(2.5, np.float32)))
    rows = net("Gather", net.input("x", (4096, 64)), net("Squeeze", net("NonZero", chosen)))
    net.output(net("ReduceMax", net.dense(rows, 64, 512), axes=[0], keepdims=0))
    onnx.save(net.model(), tmp_path / "rows.onnx")
    manifest = build(tmp_path / "rows.onnx", tmp_path / "rows")
    assert sizes_may_depend_on_data(manifest)
    score = np.full(4096, 3, np.float32)
    x = np.random.default_rng(0).standard_normal((4096, 64), np.float32)
    busy = {"score": score, "x": x}
    needed = together([manifest]).total_bytes
    with SwapRuntime(budget=needed + (1 << 20)) as runtime:
        model = runtime.load(tmp_path / "rows")
        with pytest.raises(BudgetError, match="larger than planned for"):
            model(busy)
        runtime.set_budget("128MiB")
        (answer,) = model(busy).values()
        runtime.set_budget(needed + (1 << 20))
        with pytest.raises(BudgetError, match="larger than planned for"):
            model(busy)
        few = np.where(np.arange(4096) < 9, score, 0)
        assert model({"score": few, "x": x})
    with SwapExecutor(tmp_path / "rows", "128MiB") as executor:
        (alone,) = executor(busy).values()
    assert np.array_equal(answer, alone)


def test_sizes_that_data_does_not_decide_need_no_spare(engine: BuildToy) -> None:
    assert not sizes_may_depend_on_data(engine("used-twice").manifest)
