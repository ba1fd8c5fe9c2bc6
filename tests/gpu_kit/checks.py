"""Part (a): what our own code does on the GPU, asked with kernels of ours."""

from __future__ import annotations

import gc
import platform
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict
from importlib import metadata
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any
from unittest import mock

import msgspec
import numpy as np

from swapnet.calibration.delays.worker import Job, measure_profile
from swapnet.errors import BackendError, StorageError, SwapnetError
from swapnet.executor import PlanOptions, SwapExecutor
from swapnet.executor.engine import Engine
from swapnet.executor.gpu.accelerator import Buffer, Event, MemoryKind, Stream, choose_memory
from swapnet.executor.gpu.clock import Clock
from swapnet.executor.gpu.memory import GpuArena
from swapnet.executor.gpu.staging import StagedLoader
from swapnet.executor.planning.plan import Place, Read
from swapnet.executor.planning.planner import smallest_budget
from swapnet.executor.swapping.loading import load_once, pieces
from swapnet.executor.swapping.storage import WeightFile
from swapnet.manifest import WEIGHTS, load_manifest
from swapnet.profile import save_profile
from tests.evidence.gpu import measure_cases
from tests.gpu_kit.blocks import CudaKernels, Kernels, NumpyKernels, installed, kernels_of, mixed
from tests.gpu_kit.rig import Check, Figures, Rig, Wrong, open_rig

__all__ = ["CHECKS"]

_MIB = 1 << 20
_DRIVER_BYTES = 64 * _MIB
"""What a driver takes for itself when kernels are first launched: nobody asks us for it."""
_LEAK_BYTES = 8 * _MIB
_CYCLES = 100
_POISON = 0xFF


def machine(rig: Rig) -> Figures:
    """What there is."""
    gpu, attributes = rig.gpu, rig.gpu.attributes
    found: Figures = {key: value for key, value in asdict(attributes).items() if key != "name"}
    versions = {}
    for name in ("numpy", "pycuda", "onnx", "onnxruntime", "cuda-core"):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not here"
    with closing(WeightFile(rig.folder / WEIGHTS)) as disk, closing(_weights(rig)) as fast:
        modes = {"disk": str(disk.mode), "memory": str(fast.mode)}
    return {
        "gpu": attributes.name,
        **found,
        "free_bytes": gpu.free_bytes(),
        "memory_chosen": str(choose_memory(attributes)),
        "python": platform.python_version(),
        **versions,
        "nvcc": shutil.which("nvcc") or "not here",
        "load_modes": modes,
        "engine_in_memory": rig.fast != rig.folder,
        "weights_bytes": load_manifest(rig.folder).weights_nbytes,
    }


class _Bench:
    """One block of the engine on the device, with a place for its input and its output."""

    def __init__(self, rig: Rig) -> None:
        self.gpu = rig.gpu
        self.block = load_manifest(rig.folder).blocks[0]
        (weight,) = self.block.weights
        self.shape = weight.shape
        self.row = 4 * self.shape[1]
        self.source = np.arange(self.shape[1], dtype=np.uint32)
        self.pinned = self.gpu.allocate(MemoryKind.PINNED, weight.nbytes + 2 * self.row)
        self.device = self.gpu.allocate(MemoryKind.DEVICE, weight.nbytes + 2 * self.row)
        with closing(_weights(rig)) as storage:
            storage.read_into(self.pinned.view(0, weight.nbytes), weight.offset)
        self.weights = np.frombuffer(self.pinned.view(0, weight.nbytes), np.uint32)
        self.expected = mixed(self.source, self.weights.reshape(self.shape))
        self.at = weight.nbytes
        self.array(0)[:] = self.source

    def array(self, number: int) -> np.ndarray[Any, np.dtype[np.uint32]]:
        """Page-locked: 0 is the input, 1 the output."""
        return np.frombuffer(self.pinned.view(self.at + number * self.row, self.row), np.uint32)

    def upload(self, stream: Stream) -> None:
        """Weights and input to the device."""
        self.gpu.copy_in(stream, self.device.address, self.pinned.view(0, self.at + self.row))

    def launch(self, kernels: Kernels, stream: Stream) -> None:
        """The block, from its input to its output."""
        start = self.device.address
        output = start + self.at + self.row
        kernels.launch(stream, start + self.at, start, output, self.shape)

    def download(self, stream: Stream) -> None:
        """The output to the host."""
        view = self.pinned.view(self.at + self.row, self.row)
        self.gpu.copy_out(stream, view, self.device.address + self.at + self.row)

    def is_right(self) -> bool:
        """Whether the output on the host is NumPy's; forgets it."""
        found = np.array_equal(self.array(1), self.expected)
        self.array(1)[:] = 0
        return found

    def close(self) -> None:
        """Give the memory back."""
        del self.weights
        self.pinned.free()
        self.device.free()


def kernel(rig: Rig) -> Figures:
    """A copy, a kernel and a copy back give what NumPy gives."""
    with closing(_Bench(rig)) as bench:
        stream = rig.gpu.stream()
        started = time.perf_counter()
        kernels = kernels_of(rig.gpu)
        made_s = time.perf_counter() - started
        bench.upload(stream)
        begun = stream.record()
        bench.launch(kernels, stream)
        ended = stream.record()
        bench.download(stream)
        stream.synchronize()
        figures = {"compile_s": made_s, "kernel_ms": ended.ms_since(begun)}
        if not bench.is_right():
            raise Wrong("the output differs from NumPy's", figures)
        return figures


def order(rig: Rig) -> Figures:
    """A stream that waits for another's event sees its work; one that does not, may not."""
    times, early, wrong = 20, 0, 0
    with closing(_Bench(rig)) as bench:
        compute, copies = rig.gpu.stream(), rig.gpu.stream()
        kernels = kernels_of(rig.gpu, 2_000_000)
        bench.upload(compute)
        compute.synchronize()
        for waits in (True, False) * times:
            rig.gpu.fill(compute, bench.device.address + bench.at + bench.row, bench.row, _POISON)
            compute.synchronize()
            bench.launch(kernels, compute)
            if waits:
                copies.wait(compute.record())
            bench.download(copies)
            copies.synchronize()
            right = bench.is_right()
            wrong += waits and not right
            early += not waits and not right
            compute.synchronize()
    figures = {"ordered_wrong": wrong, "unordered_early": early, "of": times}
    if wrong or not early:
        raise Wrong("an event orders nothing" if wrong else "streams wait for each other", figures)
    return figures


def timing(rig: Rig) -> Figures:
    """Events measure kernels that wait for a known time, and the host's clock agrees."""
    figures: Figures = {}
    with closing(_Bench(rig)) as bench:
        stream = rig.gpu.stream()
        bench.upload(stream)
        for wait_ms in (1, 4, 16):
            kernels = kernels_of(rig.gpu, wait_ms * 1_000_000)
            bench.launch(kernels, stream)
            stream.synchronize()
            clock = Clock(stream)
            took, gaps = [], []
            for _ in range(5):
                begun = stream.record()
                bench.launch(kernels, stream)
                ended = stream.record()
                ended.synchronize()
                gaps.append((time.perf_counter() - clock.seconds(ended)) * 1e3)
                took.append(ended.ms_since(begun))
            took_ms = min(took)
            figures[f"wait_{wait_ms}_ms"] = {
                "event_ms": took_ms,
                "host_after_event_ms": median(gaps),
            }
            if not rig.is_simulated and not wait_ms <= took_ms < 1.2 * wait_ms + 0.5:
                raise Wrong(f"a wait of {wait_ms} ms took {took_ms:.2f} by events", figures)
    return figures


def copies(rig: Rig) -> Figures:
    """GB/s between page-locked memory and the device, by size of a copy."""
    total = 4 * _MIB if rig.is_simulated else 256 * _MIB
    figures: Figures = {}
    for size in (_MIB, 2 * _MIB, 4 * _MIB, 16 * _MIB):
        rates = [_copy_rates(rig, size, max(total // size, 1)) for _ in range(3)]
        to_device, to_host = (median(column) for column in zip(*rates, strict=True))
        figures[f"{size // _MIB} MiB"] = {
            "to_device_gb_per_s": to_device,
            "to_host_gb_per_s": to_host,
        }
    return figures


def _copy_rates(rig: Rig, size: int, count: int) -> tuple[float, float]:
    """To the device and back, by events; copies take turns in at most four places."""
    gpu, places = rig.gpu, min(count, 4)
    pinned = gpu.allocate(MemoryKind.PINNED, places * size)
    device = gpu.allocate(MemoryKind.DEVICE, places * size)
    stream = gpu.stream()
    marks = [stream.record()]
    for copy_out in (False, True):
        for number in range(count):
            at = number % places * size
            if copy_out:
                gpu.copy_out(stream, pinned.view(at, size), device.address + at)
            else:
                gpu.copy_in(stream, device.address + at, pinned.view(at, size))
        marks.append(stream.record())
    stream.synchronize()
    pinned.free()
    device.free()
    up, down = (max(later.ms_since(one), 1e-6) for one, later in pairwise(marks))
    return count * size / up / 1e6, count * size / down / 1e6


def staging(rig: Rig) -> Figures:
    """GB/s from storage through page-locked slots to the device, by size and number of slots."""
    manifest, gpu = load_manifest(rig.folder), rig.gpu
    figures: Figures = {}
    for place, folder in {"disk": rig.folder, "memory": rig.fast}.items():
        for size in (_MIB, 2 * _MIB, 4 * _MIB):
            for slots in (2, 3, 4):
                stream = gpu.stream()
                with closing(WeightFile(folder / WEIGHTS)) as storage:
                    arena = GpuArena(gpu, MemoryKind.DEVICE, manifest.weights_nbytes, stream)
                    loader = StagedLoader(
                        *(storage, arena, gpu, stream, Clock(stream)),
                        largest_bytes=size,
                        slots=slots,
                    )
                    reads = [
                        read
                        for block in manifest.blocks
                        for read in pieces(
                            block.index, Place(block.extent.offset, (block.extent,), True), size
                        )
                    ]
                    started = time.perf_counter()
                    load_once(loader, reads)
                    took_s = time.perf_counter() - started
                    loader.close()
                    arena.discard()
                name = f"{place}_{size // _MIB}_mib_x{slots}_gb_per_s"
                figures[name] = manifest.weights_nbytes / took_s / 1e9
    return figures


def equality(rig: Rig) -> Figures:
    """Swapped, resident and NumPy's outputs are equal to the bit, at any budget and plan."""
    smallest = smallest_budget(load_manifest(rig.folder))[0]
    plans = {
        "planned": (PlanOptions(), 0),
        "apart": (PlanOptions(merge=False), 3),
        "nothing resident": (PlanOptions(resident=False), 2),
        "not cyclic": (PlanOptions(resident=False, cyclic=False), 0),
    }
    figures: Figures = {}
    for budget in ("100%", "weights:50%", "weights:25%", smallest):
        for name, (options, readers) in plans.items():
            with rig.executor(budget, options=options, readers=readers) as executor:
                figures[f"{budget}, {name}"] = {
                    "right_of_3": sum(rig.is_right(executor) for _ in range(3)),
                    "streamed_bytes": executor.plan.streamed_bytes,
                }
    if wrong := [name for name, case in figures.items() if case["right_of_3"] < 3]:
        raise Wrong(f"outputs differ from NumPy's: {'; '.join(wrong)}", figures)
    return figures


def kinds(rig: Rig) -> Figures:
    """The same in every kind of memory; managed memory far below what is free."""
    figures: Figures = {}
    for kind in ("device", "mapped", "managed"):
        try:
            choose_memory(rig.gpu.attributes, kind)
        except BackendError as error:
            figures[kind] = {"not_here": error.why}
            continue
        with rig.executor("weights:25%", kind=kind) as executor:
            took: list[float] = []
            right = 0
            for _ in range(4):
                started = time.perf_counter()
                right += rig.is_right(executor)
                took.append((time.perf_counter() - started) * 1e3)
            figures[kind] = {
                "right_of_4": right,
                "ms": median(took[1:]),
                "arena_bytes": executor.plan.arena_bytes,
            }
    if wrong := [kind for kind, case in figures.items() if case.get("right_of_4", 4) < 4]:
        raise Wrong(f"outputs differ from NumPy's in {', '.join(wrong)} memory", figures)
    return figures


def _poison(arena: Any, read: Read) -> None:
    arena.fill(read.arena_offset, read.nbytes, _POISON)


def poison(rig: Rig) -> Figures:
    """Places are overwritten on the device before each copy, and outputs stay right."""
    figures: Figures = {}
    for wait_us in (0, 200):
        figures[f"right_of_15_wait_{wait_us}_us"] = 15 - _wrong(rig, wait_us * 1000, "", 3, 5)
    if min(figures.values()) < 15:
        raise Wrong("a kernel read a place before its bytes were there", figures)
    return figures


def faults(rig: Rig) -> Figures:
    """Planted faults are found: a kernel too early, and a copy too early."""
    figures: Figures = {
        "early_kernel_wrong_of_18": _wrong(rig, 0, "early kernel", 6, 3),
        "early_copy_wrong_of_18": _wrong(rig, 2_000_000, "early copy", 6, 3),
    }
    if 0 in figures.values():
        raise Wrong("a planted fault was not seen", figures)
    return figures


def _wrong(rig: Rig, wait_ns: int, fault: str, executors: int, inferences: int) -> int:
    """Wrong outputs with nothing resident and poisoned places."""
    options = PlanOptions(resident=False, merge=False)
    wrong = 0
    for gpu in rig.gpus(executors):
        with rig.executor(
            "weights:25%",
            wait_ns=wait_ns,
            fault=fault,
            gpu=gpu,
            options=options,
            readers=3,
            before_read=_poison,
        ) as executor:
            wrong += sum(not rig.is_right(executor) for _ in range(inferences))
    return wrong


def memory(rig: Rig) -> Figures:
    """A budget beside what the driver says is taken."""
    figures: Figures = {}
    worst = 0
    with rig.executor("100%") as executor:
        executor(rig.inputs)
    for budget in ("100%", "weights:50%", "weights:25%"):
        gc.collect()
        before = rig.gpu.free_bytes()
        with rig.executor(budget) as executor:
            executor(rig.inputs)
            taken, plan = before - rig.gpu.free_bytes(), executor.plan
            figures[budget] = {
                "budget_bytes": plan.budget_bytes,
                "planned_bytes": plan.planned_bytes,
                "arena_bytes": plan.arena_bytes,
                "taken_bytes": taken,
            }
            worst = max(worst, taken - plan.budget_bytes)
    figures["slack_bytes"] = _DRIVER_BYTES
    if worst > _DRIVER_BYTES:
        raise Wrong(f"{worst} bytes more than the budget were taken", figures)
    return figures


def cycles(rig: Rig) -> Figures:
    """100 times opened, asked and closed, then opened 20 times in vain: nothing is left."""

    def cycle() -> None:
        with rig.executor("weights:25%") as executor:
            if not rig.is_right(executor):
                raise Wrong("an output differs from NumPy's")
        gc.collect()

    for _ in range(5):
        cycle()
    device, host = rig.gpu.free_bytes(), _resident_bytes()
    started = time.perf_counter()
    for _ in range(_CYCLES):
        cycle()
    figures: Figures = {
        "device_bytes_left": device - rig.gpu.free_bytes(),
        "host_bytes_left": _resident_bytes() - host,
        "cycle_ms": (time.perf_counter() - started) * 1e3 / _CYCLES,
    }
    device = rig.gpu.free_bytes()
    refused = 0
    with _failing(WeightFile, "read_into", StorageError("gone", why="on purpose"), times=None):
        for _ in range(20):
            try:
                with rig.executor("100%"):
                    pass
            except (StorageError, BackendError):
                refused += 1
            gc.collect()
    figures["refused_of_20"] = refused
    figures["device_bytes_left_after_refusals"] = device - rig.gpu.free_bytes()
    left = ("device_bytes_left", "device_bytes_left_after_refusals")
    if refused < 20 or max(figures[name] for name in left) > _LEAK_BYTES:
        raise Wrong("memory of the device is left", figures)
    return figures


def budgets(rig: Rig) -> Figures:
    """`set_budget` up and down while requests go on."""
    asked: list[Future[dict[str, Any]]] = []
    stop = threading.Event()
    took: dict[str, list[float]] = {}
    with rig.executor("weights:25%") as executor:

        def ask() -> None:
            while not stop.is_set():
                asked.append(executor.submit(rig.inputs))
                asked[-1].exception()

        threads = [threading.Thread(target=ask) for _ in range(2)]
        for thread in threads:
            thread.start()
        try:
            for budget in ("100%", "weights:50%", "weights:25%") * 4:
                started = time.perf_counter()
                executor.set_budget(budget)
                took.setdefault(budget, []).append((time.perf_counter() - started) * 1e3)
                executor(rig.inputs)
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        right = sum(
            np.array_equal(future.result()["y"], rig.expected["y"])
            for future in asked
            if future.exception() is None
        )
    figures: Figures = {"asked": len(asked), "right": right}
    figures |= {f"to_{budget}_ms": median(times) for budget, times in took.items()}
    if right < len(asked):
        raise Wrong(f"{len(asked) - right} of {len(asked)} requests failed", figures)
    return figures


@contextmanager
def _failing(
    owner: type, name: str, error: Exception, *, after: int = 0, times: int | None = 1
) -> Iterator[None]:
    """Calls of a method fail, from the one with that number on, so many times or all."""
    method = getattr(owner, name)
    lock, calls = threading.Lock(), iter(range(1 << 30))

    def failing(*arguments: Any, **named: Any) -> Any:
        with lock:
            number = next(calls)
        if number >= after and (times is None or number < after + times):
            raise error
        return method(*arguments, **named)

    with mock.patch.object(owner, name, failing):
        yield


def errors(rig: Rig) -> Figures:
    """After a failed read, copy, launch or callback the executor gives right outputs again."""
    figures: Figures = {}
    hook_fails = threading.Event()

    def hook(*_: object) -> None:
        if hook_fails.is_set():
            hook_fails.clear()
            raise ValueError("on purpose")

    kernels = NumpyKernels if rig.is_simulated else CudaKernels
    refused = BackendError("refused", why="on purpose")
    options = PlanOptions(resident=False, merge=False)
    cases: dict[str, Callable[[ExitStack], object]] = {
        "read": lambda stack: stack.enter_context(
            _failing(WeightFile, "read_into", StorageError("gone", why="on purpose"), after=3)
        ),
        "copy": lambda stack: stack.enter_context(
            _failing(type(rig.gpu), "copy_in", refused, after=3)
        ),
        "launch": lambda stack: stack.enter_context(_failing(kernels, "launch", refused, after=2)),
        "hook": lambda _: hook_fails.set(),
    }
    with rig.executor("weights:25%", options=options, readers=3, before_read=hook) as executor:
        for name, arrange in cases.items():
            seen = "none"
            with ExitStack() as stack:
                arrange(stack)
                for _ in range(4):
                    try:
                        executor(rig.inputs)
                    except (SwapnetError, ValueError) as error:
                        seen = type(error).__name__
                        break
            after = sum(rig.is_right(executor) for _ in range(3))
            figures[name] = {"error": seen, "right_of_3": after}
        figures["callback"] = _raise_in_callback(rig, executor)
    with rig.executor("weights:25%") as executor:
        seen = "none"
        # All reads fail: the first may be one of the plan that ends.
        with _failing(WeightFile, "read_into", StorageError("gone", why="on purpose"), times=None):
            try:
                executor.set_budget("100%")
            except (StorageError, BackendError) as error:
                seen = type(error).__name__
        after = sum(rig.is_right(executor) for _ in range(3))
        figures["set_budget"] = {"error": seen, "right_of_3": after}
    bad = [n for n, case in figures.items() if case["error"] == "none" or case["right_of_3"] < 3]
    if bad:
        raise Wrong(f"no error, or a wrong output after it: {', '.join(bad)}", figures)
    return figures


def _raise_in_callback(rig: Rig, executor: SwapExecutor) -> Figures:
    called = threading.Event()

    def callback(_: Future[dict[str, Any]]) -> None:
        called.set()
        raise ValueError("on purpose")

    future = executor.submit(rig.inputs)
    future.add_done_callback(callback)
    future.result()
    called.wait(10)
    after = sum(rig.is_right(executor) for _ in range(3))
    return {"error": "ValueError" if called.is_set() else "none", "right_of_3": after}


def threads(rig: Rig) -> Figures:
    """Threads that end, and objects that other threads let go of, end no process."""
    kept: list[tuple[Stream, Buffer, Event]] = []

    def use() -> None:
        with rig.gpu.current():
            stream = rig.gpu.stream()
            buffer = rig.gpu.allocate(MemoryKind.DEVICE, _MIB)
            rig.gpu.fill(stream, buffer.address, _MIB, 1)
        kept.append((stream, buffer, stream.record()))

    def drop() -> None:
        stream, buffer, event = kept.pop()
        event.synchronize()
        buffer.free()
        del stream, buffer, event

    before = rig.gpu.free_bytes()
    for target in (use, drop, use, use, drop):
        for thread in [threading.Thread(target=target) for _ in range(8)]:
            thread.start()
            thread.join()
    while kept:
        drop()
    gc.collect()
    answers: list[bool] = []
    with rig.executor("weights:25%") as executor:
        callers = [
            threading.Thread(target=lambda: answers.append(rig.is_right(executor)))
            for _ in range(8)
        ]
        for thread in callers:
            thread.start()
        for thread in callers:
            thread.join()
    gc.collect()
    left = before - rig.gpu.free_bytes()
    figures = {"right_of_8": sum(answers), "device_bytes_left": left}
    if sum(answers) < 8 or left > _LEAK_BYTES:
        raise Wrong("a thread got a wrong output, or left memory", figures)
    return figures


def overlap(rig: Rig) -> Figures:
    """Reading hidden behind kernels that take as long, by events of the device."""
    options = PlanOptions(resident=False, merge=False)
    figures: Figures = {}
    blocks = len(load_manifest(rig.folder).blocks)
    for place, folder in {"disk": rig.folder, "memory": rig.fast}.items():
        with (
            installed(),
            SwapExecutor(folder, "weights:25%", gpu=rig.gpu, options=options) as executor,
        ):
            took: list[float] = []
            for _ in range(4):
                executor(rig.inputs)
                last = executor.stats.last
                assert last is not None
                took.append(last.latency_ms)
        wait_ms = median(took[1:])
        with installed(wait_ns=int(wait_ms * 1e6 / blocks)):
            cases = measure_cases(
                *("kernels", folder, {place: folder}, ("weights:50%", "weights:25%")),
                *(rig.inputs, rig.expected),
                gpu=rig.gpu,
                rounds=3,
                iterations=5,
            )
        if any(case.max_rel_error for case in cases):
            raise Wrong("outputs differ from NumPy's", figures)
        figures[place] = {
            "kernels_ms": wait_ms,
            "cases": [msgspec.to_builtins(case) for case in cases],
        }
    return figures


def prediction(rig: Rig) -> Figures:
    """Latency by budget: predicted from a calibration on this GPU, and measured."""
    figures: Figures = {}
    with installed(wait_ns=500_000):
        engine = Engine.open(rig.folder).on_threads(4)
        device = engine.device
        job = Job(str(rig.folder), 4, "auto", {}, ())
        started = time.perf_counter()
        profile = measure_profile(engine, job, lambda *_: None)
        figures["calibration_s"] = time.perf_counter() - started
        figures["storage"] = {
            "bytes_per_s": profile.storage.bytes_per_s,
            "busy_bytes_per_s": profile.storage.busy_bytes_per_s,
            "request_bytes": profile.storage.request_bytes,
            "readers": profile.storage.readers,
        }
        figures["block_ms"] = median(block.idle_ms for block in profile.blocks)
        save_profile(rig.folder, profile)
        for budget in ("100%", "weights:75%", "weights:50%", "weights:25%"):
            with SwapExecutor(rig.folder, budget, device=device, gpu=rig.gpu) as executor:
                took: list[float] = []
                for _ in range(8):
                    executor(rig.inputs)
                    last = executor.stats.last
                    assert last is not None
                    took.append(last.latency_ms)
                figures[budget] = {
                    "predicted_ms": executor.plan.predicted_ms,
                    "measured_ms": median(took[2:]),
                    "streamed_bytes": executor.plan.streamed_bytes,
                }
    return figures


def _weights(rig: Rig) -> WeightFile:
    return WeightFile(rig.fast / WEIGHTS)


def _resident_bytes() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))


def _check(run: Callable[[Rig], Figures], limit_s: float = 40.0) -> Check:
    title = str(run.__doc__).strip().partition("\n")[0]
    return Check("a", run.__name__, title, lambda setting: run(open_rig(setting)), limit_s)


CHECKS = (
    _check(machine, 60.0),
    _check(kernel),
    _check(order),
    _check(timing),
    _check(copies),
    _check(equality),
    _check(poison),
    _check(faults),
    _check(kinds),
    _check(errors),
    _check(memory),
    _check(budgets),
    _check(threads),
    _check(staging),
    _check(overlap, 60.0),
    _check(prediction, 60.0),
    _check(cycles, 60.0),
)
"""In the order of how much hangs on the answer."""
