"""On a GPU: equal to the unswapped model, inside the budget, overlapped, and nothing left."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path

import pytest

from swapnet.errors import BackendError, StorageError
from swapnet.executor import Device, PlanOptions, SwapExecutor
from swapnet.executor.bench.difference import largest_difference
from swapnet.executor.gpu.accelerator import MemoryKind
from swapnet.executor.gpu.cuda import Cuda
from swapnet.executor.planning.planner import smallest_budget
from swapnet.executor.swapping.storage import WeightFile
from tests.gpu.conftest import BuildZoo
from tests.helpers.engines import Arrays, assert_same, poison

pytestmark = [pytest.mark.gpu, pytest.mark.slow]

NAMES = ("resnet18", "mobilenet_v2", "resnet101", "ppocrv4_rec", "minilm")
TOLERANCE = 2e-2
"""Of the largest output: TensorRT computes float32 as TF32, with 10 bits of mantissa."""
DRIVER_BYTES = 64 << 20
"""Kernels that the driver loads when they are first launched: nobody asks us for their memory."""

OnCpu = Callable[[str], tuple[Arrays, Arrays]]


@pytest.mark.parametrize("name", NAMES)
def test_equals_the_unswapped_model(zoo_engine: BuildZoo, on_cpu: OnCpu, name: str) -> None:
    """To the bit with everything in memory, closely with ONNX Runtime on the CPU."""
    inputs, expected = on_cpu(name)
    folder = zoo_engine(name)
    with SwapExecutor(folder, "100%") as whole:
        unswapped = whole(inputs)
    assert largest_difference(unswapped, expected)[1] < TOLERANCE
    for budget in ("weights:43%", "weights:25%"):
        with SwapExecutor(folder, budget) as executor:
            for _ in range(3):
                assert_same(executor(inputs), unswapped)
            assert executor.plan.streamed_bytes > 0
    with SwapExecutor(folder, "100%") as whole:
        smallest = smallest_budget(whole.manifest)[0]
    with SwapExecutor(folder, smallest) as executor:
        assert_same(executor(inputs), unswapped)


def test_poison_shows_no_read_before_load(zoo_engine: BuildZoo, on_cpu: OnCpu) -> None:
    inputs, _ = on_cpu("resnet18")
    folder = zoo_engine("resnet18")

    with SwapExecutor(folder, "100%") as whole:
        unswapped = whole(inputs)
    with SwapExecutor(folder, "weights:25%", before_read=poison) as executor:
        for _ in range(5):
            assert_same(executor(inputs), unswapped)


def test_keeps_its_budget(zoo_engine: BuildZoo, on_cpu: OnCpu, gpu: Cuda) -> None:
    inputs, _ = on_cpu("resnet101")
    before = gpu.free_bytes()
    with SwapExecutor(zoo_engine("resnet101"), "weights:25%") as executor:
        for _ in range(3):
            executor(inputs)
        taken = before - gpu.free_bytes()
        assert taken <= executor.plan.budget_bytes + DRIVER_BYTES


def test_reads_go_on_while_kernels_run(zoo_engine: BuildZoo, on_cpu: OnCpu) -> None:
    """Seen by the device's events: some request overlaps the execution of an earlier step."""
    inputs, _ = on_cpu("resnet101")
    options = PlanOptions(resident=False)
    with SwapExecutor(
        zoo_engine("resnet101"), "weights:43%", options=options, trace=True
    ) as executor:
        for _ in range(3):
            executor(inputs)
        last = executor.stats.last
        assert last is not None
        assert all(step.wait <= step.start <= step.end for step in last.steps)
        overlapping = [
            (read, step)
            for read in last.reads
            for step in last.steps
            if read.start < step.end and step.start < read.end
        ]
        assert overlapping


def test_nothing_leaks_over_a_hundred_cycles(
    zoo_engine: BuildZoo, on_cpu: OnCpu, gpu: Cuda
) -> None:
    inputs, _ = on_cpu("mobilenet_v2")
    folder = zoo_engine("mobilenet_v2")

    def cycle() -> None:
        with SwapExecutor(folder, "weights:43%") as executor:
            executor(inputs)
        gc.collect()

    for _ in range(5):
        cycle()
    before = gpu.free_bytes()
    for _ in range(100):
        cycle()
    assert before - gpu.free_bytes() < 8 << 20


def test_nothing_leaks_after_loads_that_fail(
    zoo_engine: BuildZoo, gpu: Cuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = zoo_engine("resnet18")
    SwapExecutor(folder, "100%").close()
    gc.collect()
    before = gpu.free_bytes()

    def fail(_: WeightFile, destination: memoryview, offset: int) -> None:
        raise StorageError("the storage is gone", why=f"{len(destination)} bytes at {offset}")

    monkeypatch.setattr(WeightFile, "read_into", fail)
    for _ in range(20):
        with pytest.raises((StorageError, BackendError)):
            SwapExecutor(folder, "100%")
        gc.collect()
    assert before - gpu.free_bytes() < 8 << 20


def test_managed_memory_far_below_what_is_free(
    zoo_engine: BuildZoo, on_cpu: OnCpu, gpu: Cuda
) -> None:
    """Asked for here, though the GPU may be a discrete one: less than 1 % of its memory."""
    if not gpu.attributes.has_concurrent_access:
        pytest.skip("the host can't touch managed memory while kernels run")
    inputs, _ = on_cpu("resnet18")
    folder: Path = zoo_engine("resnet18")
    with SwapExecutor(folder, "100%") as whole:
        unswapped = whole(inputs)
        assert whole.plan.arena_bytes < gpu.free_bytes() // 100
    device = Device(gpu_memory=str(MemoryKind.MANAGED))
    with SwapExecutor(folder, "weights:43%", device=device) as executor:
        for _ in range(3):
            assert_same(executor(inputs), unswapped)
