from __future__ import annotations

import gc
import mmap
import re
import shutil
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from swapnet.errors import BackendError, BudgetError, EngineError, InputError, StorageError
from swapnet.executor import Device, LoadMode, Pace, PlanOptions, SwapExecutor
from swapnet.executor.backends.onnxruntime import OrtSegment, names_shapes
from swapnet.executor.backends.scratch import Scratch
from swapnet.executor.backends.skeletons import Skeletons
from swapnet.executor.planning.planner import smallest_budget
from swapnet.executor.planning.usage import usage
from swapnet.executor.runtime.dispatcher import Dispatcher
from swapnet.executor.runtime.shared_executor import SharedExecutor
from swapnet.executor.sharing import Sharing
from swapnet.executor.swapping.arena import Arena
from swapnet.executor.swapping.storage import WeightFile
from swapnet.manifest import MANIFEST, WEIGHTS, save_manifest
from swapnet.symbols import size_of
from swapnet.testing.engine import block_byte, write_engine
from tests.helpers.cycles import Used, settled
from tests.helpers.dispatched import serving
from tests.helpers.engines import Arrays, BuildToy, Engine, assert_same
from tests.helpers.threads import until

ReadInto = Callable[[WeightFile, memoryview, int], None]


@pytest.fixture
def toy(engine: BuildToy) -> Engine:
    """Blocks of 16 KiB, three of which share a weight."""
    return engine("used-twice")


@pytest.fixture
def expected(toy: Engine, tmp_path: Path) -> list[Arrays]:
    """What the whole model gives for five seeds."""
    return [toy.whole(toy.feeds(seed), tmp_path) for seed in range(5)]


def flip(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


# What is read


@pytest.mark.parametrize("cyclic", [True, False])
def test_reads_what_the_plan_says(toy: Engine, cyclic: bool) -> None:
    """All requests that may be made between inferences are waited for."""
    options = PlanOptions(cyclic=cyclic)
    with SwapExecutor(toy.folder, toy.smallest, options=options) as executor:
        reads = executor.plan.reads
        waiting = next((i for i, read in enumerate(reads) if read.after >= 0), len(reads))
        ahead = sum(read.nbytes for read in reads[:waiting])
        assert executor.plan.streamed_bytes > 0

        def infer(bytes_read: int) -> None:
            executor(toy.feeds())
            until(lambda: executor.stats.read_bytes >= bytes_read)
            time.sleep(0.005)
            assert executor.stats.read_bytes == bytes_read

        for count in range(1, 6):
            infer(count * executor.plan.streamed_bytes + ahead)
            assert executor.stats.inferences == count


@pytest.mark.parametrize("mode", [LoadMode.AUTO, LoadMode.BUFFERED, LoadMode.MMAP])
def test_load_modes_give_the_same(toy: Engine, expected: list[Arrays], mode: LoadMode) -> None:
    with SwapExecutor(toy.folder, toy.smallest, load_mode=str(mode)) as executor:
        assert executor.load_mode is mode or mode is LoadMode.AUTO
        for seed, outputs in enumerate(expected):
            assert_same(executor(toy.feeds(seed)), outputs)


def test_only_asked_rows_are_read(engine: BuildToy) -> None:
    toy = engine("only-lookup")
    with SwapExecutor(toy.folder, "100%") as executor:
        executor({"ids": np.zeros((2, 3), np.int32)})
        assert executor.stats.read_bytes == 4096


def test_a_trace_holds_every_request_and_step(toy: Engine) -> None:
    with SwapExecutor(toy.folder, toy.smallest, trace=True) as executor:
        for _ in range(3):
            executor(toy.feeds())
        last, steps = executor.stats.last, len(executor.plan.steps)
    assert last is not None
    assert [event.step for event in last.steps] == list(range(steps))
    assert all(event.wait <= event.start <= event.end for event in last.steps)
    assert last.reads
    assert all(event.start <= event.end for event in last.reads)
    assert 0 <= last.stall_ms <= last.latency_ms
    assert 0 < last.input_ms + last.output_ms <= last.latency_ms - last.stall_ms
    assert last.start <= last.steps[0].wait


# Calling


def test_many_threads_call_at_once(toy: Engine, expected: list[Arrays]) -> None:
    with SwapExecutor(toy.folder, toy.smallest) as executor, ThreadPoolExecutor(4) as pool:
        seeds = [index % 5 for index in range(40)]
        found = list(pool.map(lambda seed: executor(toy.feeds(seed)), seeds))
        assert executor.stats.inferences == 40
    for seed, outputs in zip(seeds, found, strict=True):
        assert_same(outputs, expected[seed])


def test_what_is_submitted_is_finished(toy: Engine, expected: list[Arrays]) -> None:
    with SwapExecutor(toy.folder, toy.smallest) as executor:
        futures = [executor.submit(toy.feeds(seed)) for seed in range(5)]
        wrong = executor.submit({"z": np.zeros(1)})
    for future, outputs in zip(futures, expected, strict=True):
        assert_same(future.result(), outputs)
    with pytest.raises(InputError, match="unknown input 'z'"):
        wrong.result()


@pytest.mark.parametrize("given", [None, [1.0], np.ones(3)])
def test_inputs_that_are_no_dict(toy: Engine, given: Any) -> None:
    with SwapExecutor(toy.folder, toy.smallest) as executor:
        with pytest.raises(InputError, match="inputs are not a dict"):
            executor(given)
        with pytest.raises(InputError, match="inputs are not a dict"):
            executor.submit(given).result()


def test_outputs_belong_to_the_caller(engine: BuildToy) -> None:
    for name in ("ends", "dynamic", "lookups", "computed-indices-dynamic"):
        toy = engine(name)
        with SwapExecutor(toy.folder, toy.smallest) as executor:
            feeds = toy.feeds()
            first = executor(feeds)
            kept = {name: array.copy() for name, array in first.items()}
            executor(toy.feeds(1))
        assert_same(first, kept)
        arrays = [*first.values(), *feeds.values()]
        assert not any(
            np.shares_memory(a, b) for i, a in enumerate(arrays) for b in arrays[i + 1 :]
        )


def test_smaller_inputs_than_planned(engine: BuildToy, tmp_path: Path) -> None:
    toy = engine("dynamic")
    random = np.random.default_rng(0)
    with SwapExecutor(toy.folder, toy.smallest) as executor:
        for shape in ((3, 7), (1, 1), (2, 5), (3, 7)):
            feeds: Arrays = {
                "x": random.standard_normal((*shape, 64), np.float32),
                "mask": np.ones(shape, np.int64),
            }
            assert_same(executor(feeds), toy.whole(feeds, tmp_path))


@pytest.mark.skipif(not names_shapes(), reason="this ONNX Runtime has no formulas")
def test_a_wrong_formula_is_corrected(engine: BuildToy, tmp_path: Path) -> None:
    """All formulas say the size of the build: ONNX Runtime tells the true one of each value."""
    toy = engine("dynamic")
    folder = Path(shutil.copytree(toy.folder, tmp_path / "engine"))
    manifest = toy.manifest
    sizes = {"_0": 3, "_1": 7}
    wrong = {dim: str(size_of(f, sizes) or f) for dim, f in manifest.formulas.items()}
    assert wrong != manifest.formulas
    save_manifest(folder, msgspec.structs.replace(manifest, formulas=wrong))
    random = np.random.default_rng(0)
    with SwapExecutor(folder, toy.smallest) as executor:
        for shape in ((3, 7), (2, 5), (1, 1), (2, 5)):
            feeds: Arrays = {
                "x": random.standard_normal((*shape, 64), np.float32),
                "mask": np.ones(shape, np.int64),
            }
            assert_same(executor(feeds), toy.whole(feeds, tmp_path))


def test_threads_are_chosen(toy: Engine, expected: list[Arrays]) -> None:
    with SwapExecutor(toy.folder, toy.smallest, device=Device(threads=1)) as executor:
        assert_same(executor(toy.feeds()), expected[0])


def test_storage_is_slowed_down_and_planned_for(toy: Engine, expected: list[Arrays]) -> None:
    with SwapExecutor(toy.folder, toy.smallest) as executor:
        fast_ms = executor.plan.predicted_ms
    device = Device(pace=Pace(10e6))
    with SwapExecutor(toy.folder, toy.smallest, device=device) as executor:
        assert executor.plan.predicted_ms > fast_ms
        start = time.perf_counter()
        for seed in range(2):
            assert_same(executor(toy.feeds(seed)), expected[seed])
        taken_s = time.perf_counter() - start
        assert taken_s >= executor.plan.streamed_bytes / 10e6  # of the second one, at least


def test_indices_count_from_the_end_or_are_refused(engine: BuildToy) -> None:
    toy = engine("only-lookup")
    with SwapExecutor(toy.folder, "100%") as executor:
        (last,) = executor({"ids": np.full((2, 3), -1, np.int32)}).values()
        (same,) = executor({"ids": np.full((2, 3), 4095, np.int32)}).values()
        np.testing.assert_array_equal(last, same)
        with pytest.raises(InputError, match="index 4096 in 'ids'"):
            executor({"ids": np.full((2, 3), 4096, np.int32)})
        (first,) = executor({"ids": np.full((2, 3), -4096, np.int32)}).values()
        (same,) = executor({"ids": np.zeros((2, 3), np.int32)}).values()
        np.testing.assert_array_equal(first, same)


def test_a_wrong_input_leaves_the_executor_usable(toy: Engine, expected: list[Arrays]) -> None:
    with SwapExecutor(toy.folder, toy.smallest) as executor:
        with pytest.raises(InputError, match="wrong element type"):
            executor({"x": np.zeros((2, 64))})
        assert_same(executor(toy.feeds()), expected[0])
        assert executor.stats.inferences == 1


def test_a_bad_index_in_the_middle_leaves_the_executor_usable(engine: BuildToy) -> None:
    toy = engine("lookups")
    with SwapExecutor(toy.folder, toy.smallest) as executor:
        before = executor(toy.feeds())
        with pytest.raises(InputError, match="outside its table"):
            executor({"ids": np.full((4, 3), 9999)})
        assert_same(executor(toy.feeds()), before)


# Budgets


def test_the_budget_changes_between_inferences(toy: Engine, expected: list[Arrays]) -> None:
    middle = (toy.smallest + toy.demand) // 2
    with SwapExecutor(toy.folder, "100%") as executor:
        streamed: list[int] = []
        for budget in (toy.demand, toy.smallest, middle, toy.smallest, "100%"):
            executor.set_budget(budget)
            assert executor.stats.inferences == len(streamed) * len(expected)
            streamed.append(executor.plan.streamed_bytes)
            for seed, outputs in enumerate(expected):
                assert_same(executor(toy.feeds(seed)), outputs)
    assert streamed[0] == streamed[-1] == 0
    assert streamed[1] == streamed[3] > streamed[2] > 0


def test_a_budget_that_is_restored_has_its_plan(toy: Engine) -> None:
    """Those of the latest few; older ones are made again."""
    with SharedExecutor(toy.folder, toy.smallest) as executor:
        first = executor.plan
        assert executor.prepare(toy.smallest) is first
        budgets = range(toy.smallest, toy.smallest + 5 * 4096, 4096)
        plans = [executor.prepare(budget) for budget in budgets]
        assert [plan.budget_bytes for plan in plans] == list(budgets)
        assert executor.prepare(budgets[-1]) is plans[-1]
        again = executor.prepare(toy.smallest)
        assert again is not first
        assert again == first


def test_a_change_of_budget_reads_no_skeleton_again(
    toy: Engine, expected: list[Arrays], monkeypatch: pytest.MonkeyPatch
) -> None:
    with SwapExecutor(toy.folder, toy.smallest) as executor:
        monkeypatch.setattr(Skeletons, "read", None)
        for budget in ("100%", "weights:60%", toy.smallest):
            executor.set_budget(budget)
            assert_same(executor(toy.feeds()), expected[0])


@pytest.mark.slow
def test_a_thousand_executors_leave_nothing(toy: Engine) -> None:
    """Mappings, descriptors, threads and anonymous memory; each changes its budget once."""

    def used(openings: int) -> tuple[int, Used]:
        for _ in range(openings):
            with SwapExecutor(toy.folder, toy.smallest, device=Device(1)) as opened:
                opened.set_budget("100%")
        gc.collect()
        return len(Path("/proc/self/maps").read_text().splitlines()), settled(5)

    (mappings, before), (mappings_after, after) = used(50), used(1000)
    assert mappings_after <= mappings + 8
    assert after["descriptors"] == before["descriptors"]
    assert after["threads"] == before["threads"]
    # The heap grows a little: by less than a page for each.
    assert after["resident_bytes"] < before["resident_bytes"] + 1000 * mmap.PAGESIZE


def test_an_impossible_budget_changes_nothing(toy: Engine, expected: list[Arrays]) -> None:
    with SwapExecutor(toy.folder, toy.smallest) as executor:
        plan = executor.plan
        for budget in (toy.smallest - 1, 1 << 60):
            with pytest.raises(BudgetError):
                executor.set_budget(budget)
        with pytest.raises(InputError, match="is not a budget"):
            executor.set_budget("much")
        assert executor.plan is plan
        assert_same(executor(toy.feeds()), expected[0])


def test_the_budget_changes_while_others_call(toy: Engine, expected: list[Arrays]) -> None:
    with SwapExecutor(toy.folder, toy.smallest) as executor, ThreadPoolExecutor(2) as pool:
        futures = [pool.submit(executor, toy.feeds(index % 5)) for index in range(30)]
        for index in range(6):
            executor.set_budget((toy.demand, toy.smallest)[index % 2])
        for index, future in enumerate(futures):
            assert_same(future.result(), expected[index % 5])


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        (1, "it needs .* the budget allows 1"),
        ("1KiB", "does not fit in 1KiB"),
        (1 << 60, "more than this machine has"),
    ],
)
def test_impossible_budgets_are_refused(toy: Engine, budget: str | int, message: str) -> None:
    with pytest.raises(BudgetError, match=message):
        SwapExecutor(toy.folder, budget)


# Taking turns


class Turns:
    """An executor beside no other: what it asks for is granted, and noted."""

    def __init__(self, toy: Engine, *, lanes: int = 1, **options: Any) -> None:
        self.asked: list[str] = []
        self._dispatcher = Dispatcher(
            lanes=lanes, readers=2, on_decision=lambda decision: self.asked.append(decision.event)
        )
        self._port = self._dispatcher.add("toy", 1.0)
        sharing = Sharing(self._port, Scratch(usage(toy.manifest).scratch_bytes))
        self.executor = SharedExecutor(toy.folder, toy.smallest, sharing=sharing, **options)

    def __call__(self, feeds: Arrays) -> Arrays:
        self.asked.clear()
        with serving(self._port):
            return self.executor(feeds)

    def close(self) -> None:
        self.executor.close()
        self._dispatcher.close()


def test_each_step_asks_for_its_turn(toy: Engine, expected: list[Arrays]) -> None:
    turns = Turns(toy)
    for seed in range(3):
        assert_same(turns(toy.feeds(seed)), expected[seed])
        assert turns.asked.count("ended") == len(turns.executor.plan.steps) > 1
        order = [event for event in turns.asked if event in ("began", "left", "done")]
        assert order == ["began", "left", "done"]
    with pytest.raises(InputError):
        turns({})
    assert "began" not in turns.asked
    turns.close()
    with pytest.raises(BackendError, match="closed"):
        turns(toy.feeds())
    assert "began" not in turns.asked


def test_a_failed_inference_leaves_its_turn(
    toy: Engine, expected: list[Arrays], monkeypatch: pytest.MonkeyPatch
) -> None:
    turns = Turns(toy, options=PlanOptions(resident=False, cyclic=False))
    failing(monkeypatch, 1)
    with pytest.raises(StorageError):
        turns(toy.feeds())
    assert {"lost", "left"} <= set(turns.asked)
    assert_same(turns(toy.feeds(1)), expected[1])
    turns.close()


@pytest.mark.parametrize("lanes", [1, 2])
def test_a_step_without_room_is_executed_again_alone(
    toy: Engine, expected: list[Arrays], monkeypatch: pytest.MonkeyPatch, lanes: int
) -> None:
    """Where others could have used scratch memory at that moment."""
    real = OrtSegment.run
    short = [True]

    def run(self: OrtSegment, *given: Any) -> None:
        if short and short.pop():
            raise BudgetError("too large")
        real(self, *given)

    monkeypatch.setattr(OrtSegment, "run", run)
    turns = Turns(toy, lanes=lanes)
    if lanes > 1:
        assert_same(turns(toy.feeds()), expected[0])
    else:
        with pytest.raises(BudgetError, match="too large"):
            turns(toy.feeds())
    assert turns.asked.count("crowded") == lanes - 1
    assert_same(turns(toy.feeds(1)), expected[1])
    turns.close()


def test_a_prepared_plan_is_in_force_once_it_is_adopted(
    toy: Engine, expected: list[Arrays]
) -> None:
    with SharedExecutor(toy.folder, toy.smallest) as executor:
        before = executor.plan
        plan = executor.prepare("100%")
        with pytest.raises(BudgetError):
            executor.prepare(toy.smallest - 1)
        assert executor.plan is before
        for seed, one in enumerate((plan, before, plan)):
            executor.adopt(one)
            assert executor.plan is one
            assert_same(executor(toy.feeds(seed)), expected[seed])
    with pytest.raises(BackendError, match="closed"):
        executor.adopt(before)


def reads_of(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Where was read, from now on."""
    offsets: list[int] = []
    real: ReadInto = WeightFile.read_into

    def read_into(self: WeightFile, destination: memoryview, offset: int) -> None:
        offsets.append(offset)
        real(self, destination, offset)

    monkeypatch.setattr(WeightFile, "read_into", read_into)
    return offsets


@pytest.mark.parametrize("times", [1, 2])
def test_a_pause_forgets_segments_and_no_weights(
    toy: Engine, expected: list[Arrays], monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    with SharedExecutor(toy.folder, "100%") as executor:
        assert executor.plan.streamed_bytes == 0
        assert_same(executor(toy.feeds()), expected[0])
        offsets = reads_of(monkeypatch)
        for _ in range(times):
            executor.pause()
        assert executor.stats.inferences == 1
        assert offsets == []
        assert_same(executor(toy.feeds(1)), expected[1])
        assert offsets == []


def test_a_plan_may_be_adopted_in_a_pause(toy: Engine, expected: list[Arrays]) -> None:
    """Its weights are where they have to be, whichever plan was before."""
    with SharedExecutor(toy.folder, toy.smallest) as executor:
        budgets: tuple[str | int, ...] = ("100%", toy.smallest, "weights:60%", "100%")
        for seed, budget in enumerate(budgets):
            executor.pause()
            executor.adopt(executor.prepare(budget))
            if seed % 2:
                executor.pause()
            assert_same(executor(toy.feeds(seed)), expected[seed])


def test_what_can_not_be_loaded_after_a_pause_is_loaded_at_the_next_inference(
    toy: Engine, expected: list[Arrays], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise BackendError("refused")

    with SharedExecutor(toy.folder, "100%") as executor:
        executor.pause()
        with monkeypatch.context() as patch:
            patch.setattr("swapnet.executor.backends.onnxruntime.OrtSegment", refuse)
            for _ in range(2):
                with pytest.raises(BackendError, match="refused"):
                    executor(toy.feeds())
        assert_same(executor(toy.feeds()), expected[0])
        executor.pause()


def test_a_plan_that_was_made_before_is_not_searched_again(
    toy: Engine, expected: list[Arrays], monkeypatch: pytest.MonkeyPatch
) -> None:
    with SharedExecutor(toy.folder, "weights:50%") as executor:
        plan = executor.plan

    def search(*_: object, **__: object) -> None:
        raise AssertionError("it was made before")

    monkeypatch.setattr("swapnet.executor.executor.make_plan", search)
    with SharedExecutor(toy.folder, plan.budget_bytes, plan=plan) as executor:
        assert executor.plan is plan
        assert_same(executor(toy.feeds()), expected[0])


# Errors


def failing(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """The read with this number fails, counted from now on; all of them with -1."""
    real: ReadInto = WeightFile.read_into
    count = iter(range(1 << 30))
    lock = threading.Lock()

    def read_into(self: WeightFile, destination: memoryview, offset: int) -> None:
        with lock:
            now = next(count)
        if number in (now, -1):
            raise StorageError("cable", why="the cable is loose")
        real(self, destination, offset)

    monkeypatch.setattr(WeightFile, "read_into", read_into)


@pytest.mark.parametrize("number", [0, 1, 4, 9])
def test_a_failing_read_names_the_block_and_ends_with_it(
    toy: Engine, expected: list[Arrays], monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    options = PlanOptions(resident=False)
    with SwapExecutor(toy.folder, toy.smallest, options=options) as executor:
        assert_same(executor(toy.feeds()), expected[0])
        failing(monkeypatch, number)
        futures = [executor.submit(toy.feeds(index % 5)) for index in range(10)]
        errors = [future.exception() for future in futures]
        (error,) = filter(None, errors)
        assert isinstance(error, StorageError)
        assert re.fullmatch(r"block \d could not be read", error.what)
        assert error.why == "the cable is loose"
        for index, future in enumerate(futures):
            if errors[index] is None:
                assert_same(future.result(), expected[index % 5])
        assert executor.stats.inferences == 10


@pytest.mark.parametrize("number", [0, 3])
def test_a_failing_read_while_opening(
    toy: Engine, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    threads = threading.active_count()
    failing(monkeypatch, number)
    with pytest.raises(StorageError, match="could not be read"):
        SwapExecutor(toy.folder, "100%")
    until(lambda: threading.active_count() <= threads)


def test_a_failing_lookup_leaves_the_executor_usable(
    engine: BuildToy, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy = engine("only-lookup")
    with SwapExecutor(toy.folder, "100%") as healthy:
        expected = healthy(toy.feeds())
    with SwapExecutor(toy.folder, "100%") as executor:
        failing(monkeypatch, 0)
        with pytest.raises(StorageError, match="cable"):
            executor(toy.feeds())
        assert_same(executor(toy.feeds()), expected)


def test_a_closed_executor_says_so(toy: Engine) -> None:
    threads = threading.active_count()
    executor = SwapExecutor(toy.folder, toy.smallest)
    executor.submit(toy.feeds()).result()
    executor.close()
    executor.close()
    until(lambda: threading.active_count() <= threads)
    uses: list[Callable[[], object]] = [
        lambda: executor(toy.feeds()),
        lambda: executor.submit(toy.feeds()),
        lambda: executor.set_budget("100%"),
    ]
    for use in uses:
        with pytest.raises(BackendError, match="the executor is closed"):
            use()
    assert executor.stats.inferences == 1
    assert executor.plan.budget_bytes == toy.smallest


def test_submitting_does_not_wait_for_the_inference_under_way(
    toy: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    go = threading.Event()
    healthy = WeightFile.read_into

    def read_into(file: WeightFile, destination: memoryview, offset: int) -> None:
        go.wait()
        healthy(file, destination, offset)

    with SwapExecutor(toy.folder, toy.smallest) as executor:
        monkeypatch.setattr(WeightFile, "read_into", read_into)
        futures = [executor.submit(toy.feeds()) for _ in range(3)]
        assert not all(future.done() for future in futures)
        go.set()
        assert all(future.result() for future in futures)


@pytest.mark.parametrize("copied", [True, False])
def test_a_queued_request_keeps_its_inputs_unless_told_not_to_copy(
    toy: Engine, expected: list[Arrays], monkeypatch: pytest.MonkeyPatch, copied: bool
) -> None:
    go = threading.Event()
    healthy = WeightFile.read_into

    def read_into(file: WeightFile, destination: memoryview, offset: int) -> None:
        go.wait()
        healthy(file, destination, offset)

    frame = {name: array.copy() for name, array in toy.feeds(1).items()}
    options = PlanOptions(resident=False, cyclic=False)
    with SwapExecutor(toy.folder, toy.smallest, options=options) as executor:
        monkeypatch.setattr(WeightFile, "read_into", read_into)
        first = executor.submit(toy.feeds())
        second = executor.submit(frame) if copied else executor.submit(frame, copy=False)
        for name, array in toy.feeds(2).items():
            frame[name][...] = array
        frame.clear()
        go.set()
        assert_same(first.result(), expected[0])
        assert_same(second.result(), expected[1 if copied else 2])


def test_replanning_holds_no_more_than_the_larger_plan(
    toy: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One arena for weights, one for values; it grows and shrinks with the plan."""
    sizes: list[int] = []
    made: list[weakref.ref[Arena]] = []

    class Watched(Arena):
        def __init__(self, nbytes: int, *, is_filled: bool = False) -> None:
            super().__init__(nbytes, is_filled=is_filled)
            made.append(weakref.ref(self))

        def resize(self, nbytes: int) -> None:
            super().resize(nbytes)
            sizes.append(nbytes)

    monkeypatch.setattr("swapnet.executor.backends.host.Arena", Watched)
    with SwapExecutor(toy.folder, toy.smallest) as executor:
        small = executor.plan.arena_bytes
        executor.set_budget("100%")
        large = executor.plan.arena_bytes
        executor.set_budget(toy.smallest)
    assert len(made) == 1
    assert sizes == [large, large, large, small]


def test_what_stays_resident_is_not_read_again(
    toy: Engine, expected: list[Arrays], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Up and down and up: only blocks that were not resident before are read."""
    read: list[int] = []
    whole = WeightFile.read_into

    def read_into(self: WeightFile, destination: memoryview, offset: int) -> None:
        read.append(offset)
        whole(self, destination, offset)

    budgets = [toy.smallest + (toy.demand - toy.smallest) * i // 4 for i in (0, 1, 2, 4, 3, 1, 4)]
    with SwapExecutor(toy.folder, budgets[0], options=PlanOptions(cyclic=False)) as executor:
        monkeypatch.setattr(WeightFile, "read_into", read_into)
        for turn, budget in enumerate(budgets):
            before = executor.plan
            executor.set_budget(budget)
            after = executor.plan
            stay = {p.extents for p in before.residents if p.resident}
            fresh = [p.extents for p in after.residents if p.resident and p.extents not in stay]
            extents = [extent for each in fresh for extent in each if extent.nbytes]
            streamed = {r.file_offset for r in after.reads}
            assert {o for o in read if o not in streamed} <= {
                o for e in extents for o in range(e.offset, e.end, 4096)
            }
            assert all(any(e.offset <= o < e.end for o in read) for e in extents)
            assert_same(executor(toy.feeds(turn % 5)), expected[turn % 5])
            read.clear()


def test_a_budget_that_can_not_be_loaded_leaves_the_one_before(
    toy: Engine, expected: list[Arrays], monkeypatch: pytest.MonkeyPatch
) -> None:
    with SwapExecutor(toy.folder, toy.smallest) as executor:
        executor(toy.feeds(0))
        failing(monkeypatch, -1)
        with pytest.raises(StorageError):
            executor.set_budget(2 * toy.demand)
        monkeypatch.undo()
        assert executor.plan.budget_bytes == toy.smallest
        assert_same(executor(toy.feeds(0)), expected[0])
        executor.set_budget(2 * toy.demand)
        assert_same(executor(toy.feeds(1)), expected[1])


def test_a_failed_inference_does_not_hinder_replanning(
    toy: Engine, expected: list[Arrays], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its exception holds a view of the memory that is to be resized."""
    options = PlanOptions(resident=False, cyclic=False)
    with SwapExecutor(toy.folder, toy.smallest, options=options) as executor:
        failing(monkeypatch, 0)
        with pytest.raises(StorageError) as held:
            executor(toy.feeds())
        monkeypatch.undo()
        executor.set_budget("100%")
        assert_same(executor(toy.feeds(0)), expected[0])
        assert held.value.__cause__ is not None


def test_one_changed_byte_is_found_when_asked(copy: Path) -> None:
    flip(copy / WEIGHTS, 20000)
    SwapExecutor(copy, "100%").close()
    with pytest.raises(EngineError, match=r"the weights of block \d were changed"):
        SwapExecutor(copy, "100%", verify=True)


def test_whole_engines_verify(small_zoo: Engine) -> None:
    SwapExecutor(small_zoo.folder, "100%", verify=True).close()


@pytest.mark.parametrize("change", [-4096, -1, 1])
def test_weights_of_another_length_are_refused(copy: Path, change: int) -> None:
    data = (copy / WEIGHTS).read_bytes()
    (copy / WEIGHTS).write_bytes((data + b"\0")[: len(data) + change])
    with pytest.raises(StorageError, match=f"it has {len(data) + change} bytes") as caught:
        SwapExecutor(copy, "100%")
    assert f"should have {len(data)}" in caught.value.why


def test_missing_weights_are_named(copy: Path) -> None:
    (copy / WEIGHTS).unlink()
    with pytest.raises(StorageError, match=r"weights.bin can't be opened"):
        SwapExecutor(copy, "100%")


def test_a_changed_manifest_is_named(copy: Path) -> None:
    flip(copy / MANIFEST, 900)
    with pytest.raises(EngineError):
        SwapExecutor(copy, "100%")


def test_weights_cut_short_while_running(copy: Path, toy: Engine, expected: list[Arrays]) -> None:
    options = PlanOptions(resident=False, cyclic=False)
    data = (copy / WEIGHTS).read_bytes()
    with SwapExecutor(copy, toy.smallest, options=options) as executor:
        assert_same(executor(toy.feeds()), expected[0])
        with (copy / WEIGHTS).open("r+b") as file:
            file.truncate(4096)
        prefetched, following = (executor.submit(toy.feeds()) for _ in range(2))
        prefetched.exception()
        with pytest.raises(StorageError, match="could not be read") as caught:
            following.result()
        assert "were asked for" in caught.value.why
        (copy / WEIGHTS).write_bytes(data)
        assert_same(executor(toy.feeds(1)), expected[1])


# Memory


def anonymous_bytes() -> int:
    match = re.search(r"RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert match is not None
    return int(match[1]) * 1024


@pytest.mark.parametrize("name", ["used-twice", "dynamic", "lookups"])
def test_memory_does_not_grow(engine: BuildToy, name: str) -> None:
    toy = engine(name)
    feeds = toy.feeds()
    with SwapExecutor(toy.folder, toy.smallest) as executor:
        for _ in range(50):
            executor(feeds)
        grown: list[int] = []
        for _ in range(3):  # other threads of this process take memory at times; a leak always
            gc.collect()
            before = anonymous_bytes()
            for _ in range(100):
                executor(feeds)
            gc.collect()
            grown.append(anonymous_bytes() - before)
        assert min(grown) < 1 << 19


# Simulated engines


def test_a_simulated_engine_executes(tmp_path: Path) -> None:
    manifest = write_engine(tmp_path, [70_000, 5000, 12_288, 1])
    smallest, _ = smallest_budget(manifest)
    for budget in (smallest, smallest + 20_000, "100%"):
        with SwapExecutor(tmp_path, budget, verify=True) as executor:
            for value in (0.0, 2.5):
                outputs = executor({"x": np.array([value])})
                assert outputs["y"] == value + sum(block_byte(b.index) for b in manifest.blocks)
