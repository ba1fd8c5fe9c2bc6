"""Engines whose weights are stored in half the bytes: the same bits from fewer."""

from __future__ import annotations

from pathlib import Path

import pytest

from swapnet.builder.writing import blocks
from swapnet.builder.writing.codecs import PLAIN
from swapnet.errors import EngineError
from swapnet.executor import SwapExecutor
from swapnet.executor.engine import Engine as Opened
from swapnet.executor.planning.plan import PlanOptions
from swapnet.executor.planning.planner import make_plan
from swapnet.manifest import WEIGHTS
from tests.helpers.engines import BuildToy, Engine, assert_same, build_toy, poison

pytestmark = pytest.mark.xdist_group("widened")


@pytest.fixture(scope="module")
def toy(engine: BuildToy) -> Engine:
    return engine("widened")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    """The same model without codecs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "choose_codecs", lambda _, extents, __: [PLAIN for _ in extents])
        return build_toy("widened", tmp_path_factory.mktemp("plain"))


def test_weights_are_float16_or_bfloat16_in_all_but_name(toy: Engine, plain: Engine) -> None:
    manifest, before = toy.manifest, plain.manifest
    assert manifest.coded == {"float16": (4 << 16, 2 << 16), "planes": (2 << 16, 1 << 16)}
    assert manifest.shared[0].extent.codec == "float16"
    assert not before.coded
    saved = sum(stored for _, stored in manifest.coded.values())
    assert manifest.weights_nbytes <= before.weights_nbytes - saved + 8192 * len(manifest.blocks)


@pytest.mark.parametrize("mode", ["auto", "buffered", "mmap"])
def test_an_inference_reads_half_the_bytes_and_gives_the_same_bits(
    toy: Engine, plain: Engine, mode: str
) -> None:
    feeds = toy.feeds()
    with SwapExecutor(plain.folder, plain.smallest, before_read=poison) as executor:
        expected = executor(feeds)
        streamed = executor.plan.streamed_bytes
    with SwapExecutor(toy.folder, toy.smallest, before_read=poison, load_mode=mode) as executor:
        for _ in range(3):
            assert_same(executor(feeds), expected)
        looked_up = sum(b.lookup.row_nbytes * 5 for b in toy.manifest.blocks if b.lookup)
        coded = sum(nbytes - stored for nbytes, stored in toy.manifest.coded.values())
        assert executor.plan.streamed_bytes == sum(
            read.stored_bytes for read in executor.plan.reads
        )
        assert executor.plan.streamed_bytes <= streamed - coded + 8192
        last = executor.stats.last
        assert last is not None
        assert last.read_bytes == executor.plan.streamed_bytes
        assert executor.stats.read_bytes >= 3 * (executor.plan.streamed_bytes + looked_up)


def test_resident_blocks_move_as_others_do(toy: Engine) -> None:
    feeds = toy.feeds()
    with SwapExecutor(toy.folder, "100%", before_read=poison) as executor:
        assert executor.stats.open_read_bytes < executor.plan.arena_bytes
        expected = executor(feeds)
        for budget in (toy.smallest, "weights:70%", "weights:90%", "100%"):
            executor.set_budget(budget)
            assert_same(executor(feeds), expected)


def test_a_plan_reckons_with_stored_bytes(toy: Engine, plain: Engine) -> None:
    options = PlanOptions(resident=False, cyclic=False, merge=False)
    predicted: list[float] = []
    for built in (toy, plain):
        opened = Opened.open(built.folder)
        whole = opened.demand.total_bytes
        predicted.append(make_plan(opened.manifest, opened.delays, whole, options).predicted_ms)
    assert predicted[0] < predicted[1]


def test_what_is_stored_has_the_checksum(toy: Engine, copy: Path) -> None:
    with SwapExecutor(copy, "100%", verify=True):
        pass
    block = next(b for b in toy.manifest.blocks if b.extent.codec == "planes")
    data = bytearray((copy / WEIGHTS).read_bytes())
    data[block.extent.end - 1] ^= 1
    (copy / WEIGHTS).write_bytes(data)
    with pytest.raises(EngineError, match=f"the weights of block {block.index} were changed"):
        SwapExecutor(copy, "100%", verify=True)
