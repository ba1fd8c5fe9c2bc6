from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest

from swapnet.cli import main
from swapnet.errors import BackendError, BudgetError, EngineError
from swapnet.executor import SwapExecutor
from swapnet.executor.backends.onnxruntime import names_shapes
from swapnet.executor.backends.strips import run_of
from swapnet.executor.engine import Engine as Opened
from swapnet.executor.planning.auto import (
    LARGEST_STALL,
    auto_bytes,
    predicted_loss,
    predicted_stall,
)
from swapnet.executor.planning.plan import PlanOptions, Step
from swapnet.executor.planning.planner import make_plan, smallest_budget
from swapnet.executor.planning.usage import least_bytes
from swapnet.executor.probing.activations import Job
from swapnet.executor.probing.blocks import Blocks
from swapnet.executor.probing.stripings import (
    OtherBits,
    few_strips,
    find_stripings,
    strip_steps,
    ways_to_try,
)
from swapnet.manifest import Manifest, load_manifest, save_manifest
from swapnet.profile import assumed_profile
from swapnet.strips import Rows, Striped, Striping
from tests.helpers.engines import Engine, assert_same, build_toy, poison
from tests.helpers.striped import u_shape
from tests.helpers.zoo import Net, Toy


def transformer(tokens: int | str, layers: int = 2) -> onnx.ModelProto:
    """Attention of four heads and a feed-forward network of 512 values, twice."""
    net = Net()
    x = net.input("x", (1, tokens, 64))

    def heads(value: str, *order: int) -> str:
        split = net("Reshape", net.dense(value, 64, 64), net.constant(np.array([0, -1, 4, 16])))
        return net("Transpose", split, perm=order)

    for _ in range(layers):
        scores = net("MatMul", heads(x, 0, 2, 1, 3), heads(x, 0, 2, 3, 1))
        weights = net("Softmax", net("Mul", scores, net.weight(1)), axis=-1)
        mixed = net("Transpose", net("MatMul", weights, heads(x, 0, 2, 1, 3)), perm=[0, 2, 1, 3])
        joined = net("Reshape", mixed, net.constant(np.array([0, -1, 64])))
        x = net("Add", x, net.dense(joined, 64, 64))
        normed = net("LayerNormalization", x, net.weight(64), axis=-1)
        hidden = net("Add", net.dense(normed, 64, 512), net.weight(512))
        x = net("Add", x, net.dense(net("Mul", hidden, net("Erf", hidden)), 512, 64))
    net.output(x)
    return net.model()


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    toy = Toy(lambda: u_shape(208, 164), max_block="90KiB")
    return build_toy("u", tmp_path_factory.mktemp("u"), toy)


@pytest.fixture(scope="module")
def symbolic(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    toy = Toy(lambda: u_shape("h", "w"), "200KiB", {"x": (1, 3, 208, 160)})
    return build_toy("u", tmp_path_factory.mktemp("u"), toy)


def without_strips(manifest: Manifest) -> Manifest:
    return msgspec.structs.replace(manifest, stripings=())


def test_strips_give_the_bits_of_the_whole(engine: Engine, tmp_path: Path) -> None:
    feeds = engine.feeds()
    expected = engine.whole(feeds, tmp_path)
    with SwapExecutor(engine.folder, engine.smallest, before_read=poison) as executor:
        assert any(step.strips is not None for step in executor.plan.steps)
        for _ in range(2):
            assert_same(executor(feeds), expected)
        executor.set_budget(engine.demand)
        assert executor.plan.striping is None
        assert_same(executor(feeds), expected)
        for striping in executor.manifest.stripings:
            executor.set_budget(least_bytes(executor.manifest, striping))
            assert executor.plan.striping is not None
            assert_same(executor(feeds), expected)


def test_each_way_to_cut_gives_them_in_less_memory(engine: Engine, tmp_path: Path) -> None:
    feeds, manifest = engine.feeds(), engine.manifest
    expected = engine.whole(feeds, tmp_path)
    assert manifest.stripings
    smallest = smallest_budget(without_strips(manifest))[0]
    for striping in manifest.stripings:
        only = msgspec.structs.replace(manifest, stripings=(striping,))
        needed, _ = smallest_budget(only)
        assert needed < smallest
        smallest = needed
        opened = replace(Opened.open(engine.folder), shaped=only)
        with SwapExecutor(opened, needed) as executor:
            assert executor.plan.striping == striping
            assert executor.plan.planned_bytes <= needed
            assert_same(executor(feeds), expected)


def test_weights_may_be_read_for_each_strip(engine: Engine, tmp_path: Path) -> None:
    feeds, manifest = engine.feeds(), engine.manifest
    long = [s for s in manifest.stripings if any(run.first < run.last for run in s.runs)]
    runs = tuple(msgspec.structs.replace(run, apart=True) for run in long[-1].runs)
    apart = msgspec.structs.replace(long[-1], runs=runs)
    manifest = msgspec.structs.replace(manifest, stripings=(apart,))
    run = max(runs, key=lambda run: run.last - run.first)
    blocks = range(run.first, run.last + 1)
    expected = engine.whole(feeds, tmp_path)
    opened = replace(Opened.open(engine.folder), shaped=manifest)
    smallest, _ = smallest_budget(manifest)
    with SwapExecutor(opened, smallest, before_read=poison) as executor:
        plan = executor.plan
        visits = [s.strip for s in plan.steps if s.first in blocks and s.first == s.last]
        assert visits == [strip for strip in range(run.count) for _ in blocks]
        assert plan.streamed_bytes > manifest.swappable_bytes
        for _ in range(2):
            assert_same(executor(feeds), expected)
            assert executor.stats.last is not None
            assert executor.stats.last.read_bytes == plan.streamed_bytes
        # Weights of a run that stay are not read again.
        executor.set_budget(smallest + manifest.swappable_bytes // 2)
        assert 0 < executor.plan.streamed_bytes < plan.streamed_bytes
        assert_same(executor(feeds), expected)


def test_a_plan_has_strips_only_where_they_pay(engine: Engine) -> None:
    manifest, profile = engine.manifest, assumed_profile(engine.manifest)
    whole = smallest_budget(without_strips(manifest))[0]
    assert make_plan(manifest, profile, engine.demand).striping is None
    plan = make_plan(manifest, profile, whole - 1)
    assert plan.striping == manifest.stripings[0]
    least = make_plan(manifest, profile, engine.smallest)
    assert least.striping == manifest.stripings[-1]
    assert least.predicted_ms > plan.predicted_ms
    assert make_plan(manifest, profile, whole, PlanOptions(strips=False)).striping is None
    with pytest.raises(BudgetError):
        make_plan(manifest, profile, whole - 1, PlanOptions(strips=False))
    striping = manifest.stripings[-1]
    assert make_plan(manifest, profile, engine.demand, PlanOptions(strips=striping)).striping
    with pytest.raises(BudgetError, match=f"{least_bytes(manifest, striping)} bytes"):
        make_plan(manifest, profile, 1 << 20, PlanOptions(strips=striping))


@pytest.mark.skipif(not names_shapes(), reason="this ONNX Runtime has no formulas of sizes")
def test_runs_that_no_plan_has_are_kept_for_other_shapes_alone(
    engine: Engine, symbolic: Engine
) -> None:
    for manifest, are_more in ((engine.manifest, False), (symbolic.manifest, True)):
        striped = {(r.first, r.last) for s in manifest.stripings for r in s.runs}
        assert {(run.first, run.last) for run in manifest.runs} >= striped
        assert (len(manifest.runs) > len(striped)) is are_more


def test_auto_takes_no_strips_that_cost_much(engine: Engine) -> None:
    manifest, profile = engine.manifest, assumed_profile(engine.manifest)
    least = make_plan(manifest, profile, engine.smallest)
    assert least.striping
    assert least.striping.runs[-1].work > 1.2
    assert predicted_loss(least, profile) > max(predicted_stall(least, profile), LARGEST_STALL)
    plan = make_plan(manifest, profile, auto_bytes(manifest, profile))
    assert predicted_loss(plan, profile) <= LARGEST_STALL


@pytest.mark.slow
def test_heights_need_not_be_known_alike(tmp_path: Path) -> None:
    def mixed() -> onnx.ModelProto:
        net = Net()
        x = net.input("x", (1, 3, "h", 80))
        fixed = net("Reshape", x, net.constant(np.array([1, 3, 104, 80])))
        ends = [net("Conv", value, net.weight(32, 3, 3, 3), pads=[1] * 4) for value in (fixed, x)]
        inner = net("Relu", net("Concat", *ends, axis=1))
        net.output(net("Conv", inner, net.weight(8, 64, 3, 3), pads=[1] * 4))
        return net.model()

    engine = build_toy("m", tmp_path, Toy(mixed, "200KiB", {"x": (1, 3, 104, 80)}))
    feeds = engine.feeds()
    with SwapExecutor(engine.folder, engine.smallest) as executor:
        assert executor.plan.striping is not None
        assert_same(executor(feeds), engine.whole(feeds, tmp_path))


@pytest.mark.skipif(not names_shapes(), reason="this ONNX Runtime has no formulas of sizes")
def test_strips_hold_at_any_height_up_to_the_planned_one(symbolic: Engine, tmp_path: Path) -> None:
    with SwapExecutor(symbolic.folder, symbolic.smallest) as executor:
        assert executor.plan.striping is not None
        for height, width in ((208, 160), (204, 160), (100, 60), (8, 8)):
            feeds = symbolic.feeds()
            feeds["x"] = np.ascontiguousarray(feeds["x"][:, :, :height, :width])
            assert_same(executor(feeds), symbolic.whole(feeds, tmp_path))


@pytest.mark.slow
@pytest.mark.skipif(not names_shapes(), reason="this ONNX Runtime has no formulas of sizes")
@pytest.mark.parametrize("tokens", ["t", 400])
def test_attention_and_products_go_by_rows_of_tokens(tokens: int | str, tmp_path: Path) -> None:
    toy = Toy(lambda: transformer(tokens), "200KiB", {"x": (1, 400, 64)} if tokens == "t" else {})
    engine = build_toy("t", tmp_path, toy)
    manifest = engine.manifest
    scores_bytes = 4 * 400 * 400 * 4
    striped = {run for striping in manifest.stripings for run in striping.runs}
    kinds = {kind for run in striped for kind in manifest.blocks[run.first].operators}
    assert {"Softmax", "Erf"} <= kinds
    whole, _ = smallest_budget(without_strips(manifest))
    with SwapExecutor(engine.folder, engine.smallest, before_read=poison) as executor:
        assert executor.plan.budget_bytes < whole - scores_bytes // 2
        for number in (400, 387, 100, 33, 16, 1) if tokens == "t" else (400,):
            feeds = engine.feeds()
            feeds["x"] = np.ascontiguousarray(feeds["x"][:, :number])
            assert_same(executor(feeds), engine.whole(feeds, tmp_path))


@pytest.mark.slow
@pytest.mark.skipif(not names_shapes(), reason="this ONNX Runtime has no formulas of sizes")
def test_rows_that_are_left_over_need_no_strip_more_than_are_planned(tmp_path: Path) -> None:
    shapes = {"x": (1, 400, 64)}
    engine = build_toy("t", tmp_path, Toy(lambda: transformer("t", 1), "90KiB", shapes))
    feeds = engine.feeds()
    given = [{"x": np.ascontiguousarray(feeds["x"][:, :number])} for number in (400, 399, 385, 0)]
    striping = engine.manifest.stripings[-1]
    assert {run.apart for run in striping.runs} == {True, False}
    with SwapExecutor(engine.folder, engine.demand) as executor:
        assert executor.plan.striping is None
        expected = [executor(each) for each in given]
        executor.set_budget(engine.smallest)
        assert executor.plan.striping == striping
        for each, outputs in zip(given, expected, strict=True):
            assert_same(executor(each), outputs)
    # These have no memory for a unit more.
    runs = tuple(msgspec.structs.replace(run, apart=True) for run in striping.runs)
    only = msgspec.structs.replace(
        engine.manifest, stripings=(msgspec.structs.replace(striping, runs=runs),)
    )
    opened = replace(Opened.open(engine.folder), shaped=only)
    with SwapExecutor(opened, smallest_budget(only)[0]) as executor:
        executor(given[0])
        with pytest.raises(BudgetError, match="there are 8, 7 were planned"):
            executor(given[1])
        executor(given[0])


def test_arrays_of_the_caller_take_what_strips_give(engine: Engine, tmp_path: Path) -> None:
    feeds = engine.feeds()
    expected = engine.whole(feeds, tmp_path)
    out = {name: np.empty_like(array) for name, array in expected.items()}
    with SwapExecutor(engine.folder, engine.smallest) as executor:
        found = executor(feeds, out=out)
    assert all(found[name] is out[name] for name in out)
    assert_same(out, expected)


def test_an_engine_that_contradicts_itself_is_refused(engine: Engine, tmp_path: Path) -> None:
    run = engine.manifest.runs[0]
    striping = engine.manifest.stripings[0]
    damaged: tuple[dict[str, Any], ...] = (
        {"runs": (msgspec.structs.replace(run, last=99),)},
        {"runs": (msgspec.structs.replace(run, outputs={"nowhere": Rows(1)}),)},
        {"runs": ()},
        {"stripings": (msgspec.structs.replace(striping, late_from=99),)},
        {"rows": {}},
    )
    for fields in damaged:
        save_manifest(tmp_path, msgspec.structs.replace(engine.manifest, **fields))
        with pytest.raises(EngineError, match="damaged"):
            load_manifest(tmp_path)


@pytest.mark.parametrize("error", [OtherBits(), BackendError("refused"), BudgetError("too small")])
def test_a_run_is_tried_once_and_left_out_where_it_fails(engine: Engine, error: Exception) -> None:
    manifest = engine.manifest
    heights = {name: int(t.shape[2]) for name, t in manifest.tensors.items()}
    ways = ways_to_try(manifest, heights)

    def found(wrong: frozenset[Striped]) -> tuple[Striping, ...]:
        tried: list[Striped] = []

        def limit_of(run: Striped) -> int:
            tried.append(run)
            if run in wrong:
                raise error
            return 1 << 20

        stripings = find_stripings(manifest, ways, limit_of, lambda _, limit: limit, 0)
        assert len(tried) == len(set(tried))
        return stripings

    stripings = found(frozenset())
    assert stripings
    runs = frozenset(stripings[-1].runs)
    assert all(runs.isdisjoint(striping.runs) for striping in found(runs))
    assert not found(frozenset(run for way in ways for run in way))


def test_strips_are_compared_with_the_whole(engine: Engine) -> None:
    blocks = Blocks(Job(str(engine.folder)))
    manifest = engine.manifest
    heights = {name: int(t.shape[2]) for name, t in manifest.tensors.items()}
    striped = manifest.stripings[-1].runs[-1]
    steps = strip_steps(striped, few_strips(manifest, heights, striped))
    blocks.keep([striped])
    blocks.run([Step(b.index, b.index, 0) for b in manifest.blocks], 64 << 20, None)
    blocks.run(steps, 64 << 20, None)
    for (name, _), array in blocks._kept.items():
        if name in run_of(manifest, striped).outputs:
            array[0, 0, 0, 0] += 1
    with pytest.raises(OtherBits):
        blocks.run(steps, 64 << 20, None)


def test_commands_name_the_blocks_in_strips(
    engine: Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    budget, _ = smallest_budget(engine.in_own_process)
    for line, named in (
        (["inspect"], "With block"),
        (["plan", "--no-measure", "--budget", str(budget)], " in 15 strips"),
    ):
        with pytest.raises(SystemExit):
            main([*line, str(engine.folder)])
        assert named in " ".join(capsys.readouterr().out.split())
