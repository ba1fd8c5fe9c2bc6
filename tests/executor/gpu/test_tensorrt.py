"""TensorRT's backend with a fake library on a simulated GPU: real numbers, any order of work."""

from __future__ import annotations

import gc
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from swapnet.errors import BackendError, BudgetError, EngineError, InputError, StorageError
from swapnet.executor import Device, PlanOptions, SwapExecutor
from swapnet.executor.planning.planner import smallest_budget
from swapnet.executor.planning.usage import usage
from swapnet.executor.swapping.storage import WeightFile
from swapnet.manifest import load_manifest, save_manifest
from swapnet.testing.gpu import SimulatedAccelerator
from tests.helpers.engines import Arrays, assert_same, poison
from tests.helpers.fake_tensorrt import DeferringRuntime, Runtime
from tests.helpers.gpu import BuildGpu
from tests.helpers.profiles import SmallRequests

TOYS = (
    *("used-twice", "images-sliced", "transformer", "transformer-dynamic", "dynamic", "half"),
    *("integers", "tied-gemm", "lookups", "computed-indices", "lstm-sliced", "ends"),
)
QUICK = ("used-twice", "dynamic", "lookups")
STYLES = (
    *(("tensorrt", "none"), ("tensorrt", "odd"), ("tensorrt", "all")),
    *(("tensorrt-rtx", "none"), ("tensorrt-rtx", "all")),
)
STREAMED = PlanOptions(resident=False)


def open_at(folder: Path, spare: int = 0, **options: Any) -> SwapExecutor:
    """At the smallest budget that works, and a little more."""
    gpu = options.setdefault("gpu", SimulatedAccelerator())
    with SwapExecutor(folder, "100%", gpu=gpu) as whole:
        budget = smallest_budget(whole.manifest)[0] + spare
    return SwapExecutor(folder, budget, **options)


def outcome(executor: SwapExecutor, given: Arrays, wanted: Arrays) -> str:
    """The error of an inference, or nothing where it gave what it should."""
    try:
        found = executor(given)
    except BackendError as error:
        return str(error)
    assert_same(found, wanted)
    return ""


@pytest.fixture
def expected(gpu_engine: BuildGpu, feeds: Callable[[Path], Arrays]) -> Callable[[str], Arrays]:
    """What ONNX Runtime gives with everything in memory."""

    def run(name: str) -> Arrays:
        folder = gpu_engine(name)
        with SwapExecutor(folder, "100%", gpu=SimulatedAccelerator()) as executor:
            return executor(feeds(folder))

    return run


@pytest.mark.usefixtures("trt")
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in TOYS]
)
@pytest.mark.parametrize(("backend", "embedded"), STYLES)
def test_equals_the_unswapped_model_in_any_order_of_work(
    gpu_engine: BuildGpu,
    feeds: Callable[[Path], Arrays],
    expected: Callable[[str], Arrays],
    name: str,
    backend: str,
    embedded: str,
) -> None:
    folder = gpu_engine(name, backend, embedded)
    given, wanted = feeds(folder), expected(name)
    for seed, memory in enumerate(("device", "managed", "device", "mapped")):
        with open_at(
            folder,
            spare=seed << 13,
            device=SmallRequests(gpu_memory=memory),
            options=STREAMED,
            gpu=SimulatedAccelerator(seed),
            before_read=poison,
        ) as executor:
            for _ in range(3):
                assert_same(executor(given), wanted)
            swapped = executor.plan.streamed_bytes
            assert swapped == sum(executor.manifest.block_bytes)


@pytest.mark.usefixtures("trt")
@pytest.mark.parametrize("embedded", ["none", "odd", "all"])
def test_what_stays_is_loaded_once(
    gpu_engine: BuildGpu, feeds: Callable[[Path], Arrays], embedded: str
) -> None:
    folder = gpu_engine("images-sliced", "tensorrt", embedded)
    with SwapExecutor(folder, "100%", gpu=SimulatedAccelerator()) as executor:
        (runtime,) = Runtime.made
        asked = runtime.asked
        for _ in range(3):
            executor(feeds(folder))
        assert runtime.asked == asked
        assert executor.plan.streamed_bytes == executor.stats.read_bytes == 0


@pytest.mark.usefixtures("trt")
def test_smaller_inputs_than_planned_for(gpu_engine: BuildGpu) -> None:
    folder = gpu_engine("transformer-dynamic", "tensorrt", "odd")
    whole = gpu_engine("transformer-dynamic")
    random = np.random.default_rng(0)
    with (
        open_at(folder, device=SmallRequests(), options=STREAMED) as executor,
        SwapExecutor(whole, "100%", gpu=SimulatedAccelerator()) as other,
    ):
        for smaller in (0, 1, 2):
            given = {
                t.name: random.standard_normal(
                    [
                        size - smaller * isinstance(dim, str) if size > smaller else size
                        for dim, size in zip(
                            t.shape, executor.manifest.planned_shapes[t.name], strict=True
                        )
                    ]
                ).astype(t.dtype)
                for t in executor.manifest.inputs
            }
            assert_same(executor(given), other(given))


@pytest.mark.usefixtures("trt")
@pytest.mark.parametrize("embedded", ["none", "all"])
def test_the_budget_changes_while_it_runs(
    gpu_engine: BuildGpu,
    feeds: Callable[[Path], Arrays],
    expected: Callable[[str], Arrays],
    embedded: str,
) -> None:
    folder = gpu_engine("images-sliced", "tensorrt", embedded)
    gpu = SimulatedAccelerator()
    given, wanted = feeds(folder), expected("images-sliced")
    with open_at(folder, device=SmallRequests(readers=1), gpu=gpu) as executor:
        small = executor.plan.budget_bytes
        used = gpu.free_bytes()
        for budget in ("100%", "100%", small, small, small + (1 << 15), small):
            executor.set_budget(budget)
            assert_same(executor(given), wanted)
        assert gpu.free_bytes() == used
        with pytest.raises(BudgetError, match="does not fit"):
            executor.set_budget("1MiB")
        assert_same(executor(given), wanted)


@pytest.mark.slow
@pytest.mark.usefixtures("trt")
@pytest.mark.parametrize("embedded", ["none", "odd", "all"])
@pytest.mark.parametrize("backend", ["tensorrt", "tensorrt-rtx"])
def test_nothing_is_left_after_loading_and_unloading(
    gpu_engine: BuildGpu, feeds: Callable[[Path], Arrays], backend: str, embedded: str
) -> None:
    folder = gpu_engine("images-sliced", backend, embedded)
    gpu = SimulatedAccelerator()
    for _ in range(3):
        with open_at(folder, device=SmallRequests(), options=STREAMED, gpu=gpu) as executor:
            executor(feeds(folder))
        gc.collect()
        assert gpu.free_bytes() == gpu.attributes.total_bytes


@pytest.mark.usefixtures("trt")
@pytest.mark.parametrize("number", [0, 3, 13, 14, 19, 40])
def test_nothing_is_left_after_a_load_that_fails(gpu_engine: BuildGpu, number: int) -> None:
    """A plan is refused: while it is opened, while residents are loaded, or never."""
    folder = gpu_engine("images-sliced", "tensorrt", "odd")
    Runtime.failing = [number]
    gpu = SimulatedAccelerator()
    blocks = load_manifest(folder).blocks
    resident = [block for block in blocks if block.weight_style == "embedded"]
    if number < len(blocks) + len(resident):
        with pytest.raises(BackendError, match=f"plan {number} is refused"):
            SwapExecutor(folder, "100%", gpu=gpu)
    else:
        SwapExecutor(folder, "100%", gpu=gpu).close()
    gc.collect()
    assert gpu.free_bytes() == gpu.attributes.total_bytes


@pytest.mark.usefixtures("trt")
def test_a_refused_plan_fails_one_inference(
    gpu_engine: BuildGpu, feeds: Callable[[Path], Arrays], expected: Callable[[str], Arrays]
) -> None:
    folder = gpu_engine("images-sliced", "tensorrt", "all")
    given, wanted = feeds(folder), expected("images-sliced")
    with open_at(folder, device=SmallRequests(), options=STREAMED) as executor:
        assert_same(executor(given), wanted)
        runtime = Runtime.made[-1]
        Runtime.failing = [runtime.asked + 3]
        outcomes = [outcome(executor, given, wanted) for _ in range(5)]
    (error,) = filter(None, outcomes)
    assert error.startswith("block ")
    assert "could not be loaded" in error
    assert "is refused" in error


@pytest.mark.usefixtures("trt")
@pytest.mark.parametrize("failing", [0, 5, 17, 40])
def test_a_copy_that_fails_fails_one_inference(
    gpu_engine: BuildGpu,
    feeds: Callable[[Path], Arrays],
    expected: Callable[[str], Arrays],
    failing: int,
) -> None:
    folder = gpu_engine("images-sliced", "tensorrt", "none")
    given, wanted = feeds(folder), expected("images-sliced")
    with open_at(folder, device=SmallRequests(), options=STREAMED) as executor:
        gpu: Any = executor._backend._accelerator  # type: ignore[attr-defined]
        gpu.failing = {gpu.copies + failing}
        outcomes = [outcome(executor, given, wanted) for _ in range(4)]
    (error,) = filter(None, outcomes)
    assert "fails" in error


@pytest.mark.usefixtures("trt")
def test_a_plan_for_another_gpu_is_told(gpu_engine: BuildGpu) -> None:
    folder = gpu_engine("used-twice", "tensorrt-rtx")
    DeferringRuntime.validity = "invalid"
    with pytest.raises(EngineError, match="calls its engine invalid") as caught:
        SwapExecutor(folder, "100%", gpu=SimulatedAccelerator())
    assert "built for any, here is simulated (sm00)" in caught.value.why


@pytest.mark.usefixtures("trt")
@pytest.mark.parametrize(
    ("version", "fingerprint", "refusal"),
    [
        ("9.9", "any", "another version of tensorrt"),
        ("11.0+", "any", "another version of tensorrt"),
        ("9.9+", "any", ""),
        ("10.0.fake", "sm86+sm89", "another GPU"),
        ("10.0.fake", "sm99+", "another GPU"),
        ("10.0.fake", "sm00", ""),
    ],
)
def test_plans_of_other_versions_and_gpus(
    gpu_engine: BuildGpu, tmp_path: Path, version: str, fingerprint: str, refusal: str
) -> None:
    folder = Path(shutil.copytree(gpu_engine("used-twice", "tensorrt"), tmp_path / "engine"))
    manifest = load_manifest(folder)
    compiled = msgspec.structs.replace(manifest.compiled, version=version, fingerprint=fingerprint)
    save_manifest(folder, msgspec.structs.replace(manifest, compiled=compiled))
    if not refusal:
        SwapExecutor(folder, "100%", gpu=SimulatedAccelerator()).close()
        return
    with pytest.raises(EngineError, match=refusal) as caught:
        SwapExecutor(folder, "100%", gpu=SimulatedAccelerator())
    assert f"built {'with ' + version if 'version' in refusal else 'for ' + fingerprint}" in (
        caught.value.why
    )


@pytest.mark.usefixtures("trt")
def test_what_outgrows_its_place_is_counted_beside_it(
    gpu_engine: BuildGpu,
    feeds: Callable[[Path], Arrays],
    expected: Callable[[str], Arrays],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A library that takes twice what it has: the rest comes from the heap, within its limit."""
    folder = gpu_engine("images-sliced", "tensorrt", "all")
    wanted = expected("images-sliced")
    with open_at(folder, device=SmallRequests(), options=STREAMED) as executor:
        fitting = usage(executor.manifest).process_bytes
    monkeypatch.setattr("tests.helpers.fake_tensorrt.Engine.greed", 2)
    gpu = SimulatedAccelerator()
    with open_at(folder, device=SmallRequests(), options=STREAMED, gpu=gpu) as executor:
        assert usage(executor.manifest).process_bytes > fitting
        for _ in range(3):
            assert_same(executor(feeds(folder)), wanted)
    gc.collect()
    assert gpu.free_bytes() == gpu.attributes.total_bytes


@pytest.mark.usefixtures("trt")
@pytest.mark.parametrize("backend", ["tensorrt", "tensorrt-rtx"])
def test_weights_inside_engines_do_not_stay_in_memory(gpu_engine: BuildGpu, backend: str) -> None:
    folder = gpu_engine("images-sliced", backend, "all")
    with SwapExecutor(folder, "100%", gpu=SimulatedAccelerator()) as executor:
        manifest = executor.manifest
        beside = sum(block.skeleton_bytes for block in manifest.blocks)
    assert beside < manifest.swappable_bytes // 4 + (4 << 20)


@pytest.mark.usefixtures("trt")
@pytest.mark.parametrize("readers", [1, 3])
def test_plans_that_can_not_be_read_end_the_inference(
    gpu_engine: BuildGpu,
    feeds: Callable[[Path], Arrays],
    expected: Callable[[str], Arrays],
    monkeypatch: pytest.MonkeyPatch,
    readers: int,
) -> None:
    """Several requests fail at once, and others wait for the memory that the failed ones hold."""
    folder = gpu_engine("images-sliced", "tensorrt", "all")
    given, wanted = feeds(folder), expected("images-sliced")
    read = WeightFile.read_into
    broken = threading.Event()

    def read_into(file: WeightFile, destination: memoryview, offset: int) -> None:
        if broken.is_set():
            raise StorageError("the storage is gone", why="unplugged")
        read(file, destination, offset)

    monkeypatch.setattr(WeightFile, "read_into", read_into)
    device = SmallRequests(readers=readers)
    with open_at(folder, spare=1 << 15, device=device, options=STREAMED) as executor:
        assert_same(executor(given), wanted)
        broken.set()
        with pytest.raises((StorageError, BackendError)):
            run_often(executor, given)
        broken.clear()
        assert_same(executor(given), wanted)
    broken.set()
    with pytest.raises((StorageError, BackendError)):
        SwapExecutor(folder, "100%", gpu=SimulatedAccelerator())


def run_often(executor: SwapExecutor, given: Arrays) -> None:
    """Until what was read ahead is used up."""
    for _ in range(5):
        executor(given)


@pytest.mark.usefixtures("trt")
def test_a_full_gpu_is_told(gpu_engine: BuildGpu) -> None:
    folder = gpu_engine("images-sliced", "tensorrt", "none")
    with pytest.raises(BudgetError, match="more than this machine has") as caught:
        SwapExecutor(folder, "100%", gpu=SimulatedAccelerator(total_bytes=30_000))
    assert "there are 1" in caught.value.why


@pytest.mark.usefixtures("trt")
def test_kinds_of_memory_that_do_not_exist(gpu_engine: BuildGpu) -> None:
    folder = gpu_engine("used-twice", "tensorrt")
    with pytest.raises(InputError, match="'fast' is not a kind of GPU memory"):
        SwapExecutor(folder, "100%", device=Device(gpu_memory="fast"), gpu=SimulatedAccelerator())
