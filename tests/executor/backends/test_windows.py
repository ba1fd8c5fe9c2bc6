"""Weights that kernels read in place: pages of the arena move to where ONNX Runtime maps them."""

from __future__ import annotations

import ctypes
import gc
import itertools
import mmap
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from swapnet.builder import build
from swapnet.builder.compilers.windows import PACKED
from swapnet.errors import BackendError, BudgetError, EngineError
from swapnet.executor import SwapExecutor, SwapRuntime
from swapnet.executor.backends import onnxruntime, windows
from swapnet.executor.backends.onnxruntime import OrtSegment
from swapnet.executor.device import Device
from swapnet.executor.engine import Engine
from swapnet.executor.inputs import planned_sample
from swapnet.executor.planning import planner
from swapnet.executor.planning.plan import PlanOptions, Step
from swapnet.executor.planning.usage import packing
from swapnet.executor.runtime.memory import session_bytes
from swapnet.executor.runtime.shared_executor import SharedExecutor
from swapnet.executor.swapping import arena
from swapnet.executor.swapping.arena import Arena, Borrower, side_by_side
from swapnet.machine import FileMapping, address_holes, anonymous_bytes, mappings_of
from swapnet.manifest import WEIGHTS, Window
from swapnet.units import align_up
from tests.helpers.decoders import grouped
from tests.helpers.engines import Arrays, BuildToy, assert_same, poison
from tests.helpers.engines import Engine as Built
from tests.helpers.zoo import Net

pytestmark = pytest.mark.xdist_group("packing")


@pytest.fixture(scope="module", params=["packing", "packing-bits"])
def toy(request: pytest.FixtureRequest, engine: BuildToy) -> Built:
    return _with_windows(engine(request.param))


def _with_windows(built: Built) -> Built:
    if not built.manifest.has_windows:
        pytest.skip("this ONNX Runtime does not compare what it has packed")
    return built


@pytest.fixture(scope="module")
def expected(toy: Built, tmp_path_factory: pytest.TempPathFactory) -> Arrays:
    return toy.whole(toy.feeds(), tmp_path_factory.mktemp("whole"))


@pytest.fixture
def executor(toy: Built) -> Iterator[SwapExecutor]:
    """All weights in memory."""
    with SwapExecutor(toy.folder, "100%") as opened:
        yield opened


def _windows(executor: SwapExecutor) -> list[tuple[int, int]]:
    """Address and size of each window."""
    state = executor._state
    assert state is not None
    found = []
    for segment in state._segments:
        for borrower, offset in getattr(segment, "_places", ()):
            assert isinstance(segment, OrtSegment)
            for block in executor.manifest.blocks[segment._step.first : segment._step.last + 1]:
                begin = offset - executor.plan.places[block.index].offset + block.extent.offset
                found += [
                    (borrower.address + window.offset - begin, window.nbytes)
                    for window in block.windows
                    if begin <= window.offset and window.end <= begin + borrower.nbytes
                ]
    return found


@pytest.mark.parametrize("kind", PACKED, ids="-".join)
def test_what_an_operator_packs_is_a_window(engine: BuildToy, kind: tuple[str, str]) -> None:
    toy = _with_windows(engine("packing-bits" if kind[1] == "MatMulNBits" else "packing"))
    packed: list[set[str]] = []
    for block in toy.manifest.blocks:
        model = onnx.load(toy.folder / block.file, load_external_data=False)
        saved = {
            tensor.name
            for tensor in model.graph.initializer
            if any(entry.key.startswith("prepacked_") for entry in tensor.external_data)
        }
        shown = {window.name for window in block.windows}
        external = {tensor.name for tensor in model.graph.initializer if tensor.external_data}
        assert saved <= shown
        for node in model.graph.node:
            names = {node.input[i] for i in PACKED[kind] if i < len(node.input)}
            if (node.domain, node.op_type) == kind and names & external:
                packed.append(names & external)
                assert packed[-1] <= saved
    assert packed


def test_every_kernel_reads_its_windows(
    toy: Built, executor: SwapExecutor, expected: Arrays
) -> None:
    feeds = toy.feeds()
    executor(feeds)
    found = _windows(executor)
    assert len(found) == sum(len(b.windows) for b in executor.manifest.blocks)
    for address, nbytes in found:
        kept = ctypes.string_at(address, nbytes)
        ctypes.memset(address, 0xFF, nbytes)
        poisoned = executor(feeds)
        assert any(not np.array_equal(poisoned[n], expected[n]) for n in expected), address
        ctypes.memmove(address, kept, nbytes)
    assert_same(executor(feeds), expected)


_MOVES = """
import sys
from swapnet.executor import SwapExecutor
with SwapExecutor(sys.argv[1], "100%") as opened:
    print(sum(len(getattr(each, "_places", ())) for each in opened._state._segments))
"""


@pytest.mark.slow
def test_windows_of_a_block_move_together(engine: BuildToy) -> None:
    """In a process of its own, whose address space has few holes."""
    toy = _with_windows(engine("packing"))
    if not onnxruntime.names_shapes():
        pytest.skip("this ONNX Runtime maps in another order")
    child = [sys.executable, "-c", _MOVES, str(toy.folder)]
    moves = int(subprocess.run(child, check=True, capture_output=True).stdout)
    assert 0 < moves < sum(len(block.windows) for block in toy.manifest.blocks)


def test_what_is_packed_is_mapped_from_the_last_on(toy: Built) -> None:
    for block in toy.manifest.blocks:
        if not block.windows:
            continue
        model = (toy.folder / block.file).read_bytes()
        graph = onnx.load_from_string(windows.gathered(model, block.windows)).graph
        offsets, blobs = [], []
        for tensor in graph.initializer:
            entries = {entry.key: entry.value for entry in tensor.external_data}
            packed = [value for key, value in entries.items() if key.startswith("prepacked_")]
            assert len(packed) == tensor.name.startswith(windows.GAP)
            if packed:
                offsets.append(int(entries["offset"]))
                blobs.append(int(packed[0].split("|")[1].split(";")[0]))
                assert tensor.name in {output.name for output in graph.output}
                assert 0 <= int(entries["length"]) == tensor.dims[0] < 16384
        assert offsets == sorted(offsets)
        assert blobs == sorted(blobs, reverse=True)
        before = onnx.load_from_string(model).graph
        assert [each.name for each in graph.output][: len(before.output)] == [
            each.name for each in before.output
        ]


def test_sessions_end_in_any_order(toy: Built, expected: Arrays) -> None:
    feeds = toy.feeds()
    executors = [SwapExecutor(toy.folder, b) for b in (toy.smallest, "100%", "weights:70%")]
    for opened in executors:
        assert_same(opened(feeds), expected)
    for closed in (1, 0):
        executors.pop(closed).close()
        for opened in executors:
            assert_same(opened(feeds), expected)
    executors.pop().close()
    assert not mappings_of(toy.folder / WEIGHTS)


@pytest.mark.parametrize("mode", ["buffered", "mmap"])
def test_weights_may_be_read_in_any_way(
    toy: Built, expected: Arrays, mode: str, caplog: pytest.LogCaptureFixture
) -> None:
    with SwapExecutor(toy.folder, toy.smallest, load_mode=mode, before_read=poison) as opened:
        for _ in range(2):
            assert_same(opened(toy.feeds()), expected)
    assert "page cache" not in caplog.text


def test_a_change_of_budget_makes_no_session_with_windows(
    toy: Built, expected: Arrays, monkeypatch: pytest.MonkeyPatch
) -> None:
    with SwapExecutor(toy.folder, toy.smallest, before_read=poison) as opened:
        assert_same(opened(toy.feeds()), expected)
        monkeypatch.setattr(onnxruntime, "open_mapped", None)
        for budget in ("100%", "weights:60%", toy.smallest, "weights:80%", "100%"):
            opened.set_budget(budget)
            assert_same(opened(toy.feeds()), expected)


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six blocks of one or two int4 products, and logits."""
    folder = tmp_path_factory.mktemp("decoder")
    onnx.save(grouped(4, hidden=256), folder / "model.onnx")
    built = build(folder / "model.onnx", folder / "engine", max_block="48KiB")
    if not built.has_windows:
        pytest.skip("this ONNX Runtime does not compare what it has packed")
    return folder / "engine"


def _joined(executor: SwapExecutor) -> list[Step]:
    """Steps of several blocks with windows."""
    blocks = executor.manifest.blocks
    return [
        step
        for step in executor.plan.steps
        if sum(bool(block.windows) for block in blocks[step.first : step.last + 1]) > 1
    ]


def _spans(steps: list[Step]) -> list[tuple[int, int]]:
    return [(step.first, step.last) for step in steps]


def test_joined_blocks_of_a_decoder_give_the_same_bits(
    decoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planner, "_KEPT", 9.0)
    opened = Engine.open(decoder)
    feeds = planned_sample(opened.manifest, seed=1)
    with SwapExecutor(opened, "100%", options=PlanOptions(merge=False)) as unswapped:
        assert not _joined(unswapped)
        expected = unswapped(feeds)
    with SwapExecutor(opened, "100%", before_read=poison) as executor:
        joined = _joined(executor)
        assert [step.last - step.first for step in joined] == [5]
        for budget in ("weights:95%", "weights:90%", "weights:85%", "100%"):
            executor.set_budget(budget)
            assert _spans(_joined(executor)) == _spans(joined)
            for _ in range(2):
                assert_same(executor(feeds), expected)


def test_what_does_not_fit_joined_is_parted_once(
    toy: Built, expected: Arrays, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []

    def counted(*args: Any) -> Any:
        made.append(len(args[1]))
        return windows.open_mapped(*args)

    monkeypatch.setattr(onnxruntime, "open_mapped", counted)
    with SwapExecutor(toy.folder, "100%", before_read=poison) as executor:
        assert _joined(executor)
        assert_same(executor(toy.feeds()), expected)
        before = len(made)
        for budget in (toy.smallest, "100%", toy.smallest, "weights:80%"):
            executor.set_budget(budget)
            assert_same(executor(toy.feeds()), expected)
            assert not _joined(executor)
            assert len(made) == before + sum(bool(b.windows) for b in toy.manifest.blocks)


def test_weights_with_equal_bytes_have_one_blob(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    net = Net()
    value = net.input("x", ("rows", 256))
    tables = np.random.default_rng(1).integers(0, 255, (256, 8, 16), np.uint8)
    scales = np.full(2048, 0.01, np.float32)
    for _ in range(5):
        given = [value, net.constant(tables.copy()), net.constant(scales.copy())]
        sizes = {"K": 256, "N": 256, "bits": 4, "block_size": 32, "accuracy_level": 4}
        value = net("Tanh", net("MatMulNBits", *given, domain="com.microsoft", **sizes))
    net.output(value)
    onnx.save(net.model(), tmp_path / "model.onnx")
    shapes = {"x": (4, 256)}
    built = build(tmp_path / "model.onnx", tmp_path / "engine", max_block="40KiB", shapes=shapes)
    if not built.has_windows:
        pytest.skip("this ONNX Runtime does not compare what it has packed")
    feeds = planned_sample(built, seed=1)
    with SwapExecutor(tmp_path / "engine", "100%", options=PlanOptions(merge=False)) as apart:
        expected = apart(feeds)
    with SwapExecutor(tmp_path / "engine", "100%", before_read=poison) as executor:
        assert _joined(executor)
        assert len(_windows(executor)) < sum(len(block.windows) for block in built.blocks)
        assert_same(executor(feeds), expected)
    assert "page cache" not in caplog.text


def test_models_of_a_runtime_have_windows(toy: Built, expected: Arrays) -> None:
    with SwapRuntime(3 * toy.demand) as runtime:
        models = [runtime.load(toy.folder, name=name) for name in "ab"]
        for share in (0.5, 0.2, 0.8):
            runtime.set_budget(int(3 * toy.demand * (0.6 + share / 2)))
            for model in models:
                assert_same(model(toy.feeds()), expected)
    assert not mappings_of(toy.folder / WEIGHTS)


def test_sessions_are_packed_while_the_arena_is_empty(toy: Built, expected: Arrays) -> None:
    assert session_bytes([toy.manifest]) > packing(toy.manifest).transient_bytes
    with SharedExecutor(toy.folder, "100%") as executor:
        assert_same(executor(toy.feeds()), expected)
        for keeps in (True, False):
            executor.pause(keep_sessions=keeps)
            assert (executor._parked is not None) == keeps
            assert_same(executor(toy.feeds()), expected)


def test_joins_are_free_where_all_sessions_are_made_again(
    decoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[PlanOptions] = []
    with SwapExecutor(decoder, "100%") as executor:
        assert executor._options.joined
        monkeypatch.setattr(executor, "_plan_of", lambda _, options: asked.append(options))
        for more in (0, 4096):
            least = executor._scratch.limit_bytes + more
            executor._options = replace(executor._options, least_scratch_bytes=least)
            executor._plan_for(executor.plan.budget_bytes, executor._options)
        joined = executor._options.joined
        monkeypatch.undo()
    assert [options.joined for options in asked] == [joined, None]


@pytest.mark.parametrize("failing", range(1, 8))
def test_a_page_that_can_not_move_leaves_none_lent(
    decoder: Path, monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    opened = Engine.open(decoder)
    feeds = planned_sample(opened.manifest, seed=1)
    calls = itertools.count(1)
    move = arena._move_pages

    def refused(*where: int) -> None:
        if next(calls) == failing:
            raise BudgetError("no page moves", why="in this test", hint="")
        move(*where)

    with SwapExecutor(opened, "weights:0%", before_read=poison) as executor:
        expected = executor(feeds)
        monkeypatch.setattr(arena, "_move_pages", refused)
        with pytest.raises(BudgetError):
            executor(feeds)
        state = executor._state
        assert state is not None
        assert isinstance(state.arena, Arena)
        assert len(state.arena._lent) <= 1
        assert_same(executor(feeds), expected)


@pytest.mark.parametrize("page_bytes", [4 << 10, 16 << 10, 64 << 10])
def test_windows_on_pages_of_any_size_lie_behind_each_other(
    monkeypatch: pytest.MonkeyPatch, page_bytes: int
) -> None:
    monkeypatch.setattr(mmap, "PAGESIZE", page_bytes)
    step = windows.window_alignment()
    nbytes = step - align_up(100, page_bytes)
    external = onnx.TensorProto(name="w", data_location=onnx.TensorProto.EXTERNAL)
    for key, value in {"location": "file", "prepacked_0": "KEY|7;0;0|0;100;0"}.items():
        external.external_data.add(key=key, value=value)
    model = onnx.helper.make_model(onnx.helper.make_graph([], "step", [], [], [external]))
    found = [Window("w", 0, 100), Window("w", step, step)]
    gathered = onnx.load_from_string(windows.gathered(model.SerializeToString(), found))
    assert [[*each.dims] for each in gathered.graph.initializer] == [[], [nbytes]]
    mapped = [FileMapping(1 << 20, (1 << 20) + 2 * step, 0)]
    pairs = [(window, (1 << 20) + window.offset) for window in found]
    assert windows._runs(pairs, mapped) == [(0, 1 << 20, 2 * step)]


def test_windows_with_another_between_them_move_alone() -> None:
    step = windows.window_alignment()
    found = [(Window(name, n * step, n * step + 100), n * step) for n, name in enumerate("ab")]
    between = Window("c", 5 * step, 5 * step + 100), step - mmap.PAGESIZE
    mapped = [FileMapping(0, 2 * step, 0)]
    assert [start for _, start, _ in windows._runs(found, mapped)] == [0]
    assert [start for _, start, _ in windows._runs([*found, between], mapped)] == [
        *(address for _, address in found),
        between[1],
    ]


@pytest.mark.slow
def test_cycles_leave_nothing(engine: BuildToy) -> None:
    """A thousand changes of the budget; an opening costs 30 times as much, so there are fewer."""
    toy = _with_windows(engine("packing-bits"))
    feeds = toy.feeds()
    budgets = toy.smallest, "100%"

    def used(openings: int, changes: int) -> tuple[int, int, int]:
        """Mappings, descriptors and anonymous bytes after some cycles."""
        for _ in range(openings):
            with SwapExecutor(toy.folder, "100%", device=Device(1)) as opened:
                opened(feeds)
                for number in range(changes):
                    opened.set_budget(budgets[number % 2])
                opened(feeds)
        gc.collect()
        lines = Path("/proc/self/maps").read_text().splitlines()
        return len(lines), len(os.listdir("/proc/self/fd")), anonymous_bytes()

    before = used(5, 1)
    used(1, 1000)
    after = used(25, 1)
    assert after[0] <= before[0] + 8
    assert after[1] == before[1]
    assert after[2] <= before[2] + (2 << 20)
    assert not mappings_of(toy.folder / WEIGHTS)


@pytest.mark.slow
def test_a_forked_process_has_neither_arena_nor_windows(toy: Built, expected: Arrays) -> None:
    """Forks while requests run; what the child had would be copied when it is next read into."""
    feeds = toy.feeds()
    with SwapExecutor(toy.folder, toy.smallest, before_read=poison) as opened:
        assert_same(opened(feeds), expected)
        state = opened._state
        assert state is not None
        addresses = [state.arena.address, *(address for address, _ in _windows(opened))]
        assert addresses == _mapped(addresses)
        waiting = [opened.submit(feeds) for _ in range(20)]
        for _ in range(10):
            child = os.fork()
            if child == 0:
                signal.alarm(60)
                os._exit(len(_mapped(addresses)))
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
            waiting.append(opened.submit(feeds))
        for future in waiting:
            assert_same(future.result(), expected)


def _mapped(addresses: Sequence[int]) -> list[int]:
    """Those that are mapped in this process."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    areas = [tuple(int(end, 16) for end in line.split()[0].split("-")) for line in lines]
    return [a for a in addresses if any(start <= a < end for start, end in areas)]


def test_where_no_page_can_move_weights_come_through_the_page_cache(
    toy: Built,
    expected: Arrays,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(windows, "can_lend", lambda: False)
    with SwapExecutor(toy.folder, toy.smallest) as opened:
        assert_same(opened(toy.feeds()), expected)
    assert "read weights through the page cache" in caplog.text


def test_blobs_that_another_kernel_packed_are_refused(toy: Built, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(toy.folder, tmp_path / "engine"))
    window = toy.manifest.blocks[0].windows[0]
    with (folder / WEIGHTS).open("r+b") as file:
        file.seek(window.offset)
        file.write(bytes(64))
    with pytest.raises(BackendError, match=r"blocks 0 to \d can't be loaded") as caught:
        SwapExecutor(folder, "100%")
    assert "packed by other kernels" in caught.value.why
    with pytest.raises(EngineError, match="the weights of block 0 were changed"):
        SwapExecutor(folder, "100%", verify=True)


def test_originals_are_verified(toy: Built, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(toy.folder, tmp_path / "engine"))
    originals = toy.manifest.blocks[0].originals
    assert originals is not None
    with (folder / WEIGHTS).open("r+b") as file:
        file.seek(originals.offset)
        file.write(bytes(64))
    with pytest.raises(EngineError, match="the weights of block 0 were changed"):
        SwapExecutor(folder, "100%", verify=True)


def test_a_window_is_found_inside_of_a_joined_mapping() -> None:
    mapped = [FileMapping(4096, 12288, 0), FileMapping(20480, 28672, 16384)]
    assert windows.addresses_of(Window("w", 16384, 100), mapped) == [20480]
    assert windows.addresses_of(Window("w", 4096, 4096), mapped) == [8192]
    assert windows.addresses_of(Window("w", 4096, 4097), mapped) == []


def test_lent_pages_keep_their_bytes() -> None:
    pages = [os.sysconf("SC_PAGE_SIZE") * n for n in range(7)]
    arena, other = Arena(pages[6]), Arena(pages[6])
    for number in range(6):
        arena.fill(pages[number], pages[1], number + 1)
    borrower = Borrower(other.address + pages[1], pages[2] - 1, other)
    for _ in range(3):
        arena.lend([(borrower, pages[3])])
        arena.lend([(borrower, pages[3])])
        assert other.view(pages[1], pages[2]).tobytes() == b"\4" * pages[1] + b"\5" * pages[1]
        arena.take_back([borrower])
        arena.take_back([borrower])
        assert arena.view(pages[3], pages[2]).tobytes() == b"\4" * pages[1] + b"\5" * pages[1]
    arena.lend([(borrower, 0)])
    arena.resize(pages[5])
    assert arena.view(0, pages[2]).tobytes() == b"\1" * pages[1] + b"\2" * pages[1]
    arena.settle()
    arena.lend([(borrower, 0)])
    arena.discard()
    assert bytes(arena.view(0, pages[5])) == bytes(pages[5])


def test_small_holes_are_filled_for_a_while() -> None:
    before = address_holes(1 << 20)
    assert before
    with side_by_side(1 << 20):
        assert len(address_holes(1 << 20)) < len(before)
    assert len(set(before) & set(address_holes(1 << 20))) > len(before) // 2
