"""The sides of a benchmark: each runs in a worker process, round after round."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import msgspec

from swapnet.arrays import load_npz, save_npz
from swapnet.custom_ops import register_custom_ops
from swapnet.executor.backends.base import Array
from swapnet.executor.bench.rounds import Pacer, Pauses
from swapnet.executor.bench.timing import Round, Timing
from swapnet.executor.device import Device
from swapnet.executor.engine import Engine
from swapnet.executor.execution import Inference
from swapnet.executor.executor import SwapExecutor
from swapnet.executor.gpu.cuda import open_cuda
from swapnet.executor.pace import Pace
from swapnet.executor.planning.plan import PlanOptions
from swapnet.executor.planning.usage import packing
from swapnet.executor.probing.reader import BackgroundReader
from swapnet.executor.report.trace import Recorder, trace_events
from swapnet.executor.swapping.patience import STORAGE_TIMEOUT_MS
from swapnet.executor.swapping.storage import LoadMode, WeightFile
from swapnet.machine import forget_peak, peak_resident_bytes
from swapnet.manifest import WEIGHTS, Extent

__all__ = ["Request", "Side", "gpu_free_bytes", "open_side"]


class Request(msgspec.Struct, frozen=True):
    """Request to a worker process: a model, and the way to run it.

    Attributes
    ----------
    role
        ``swapped``: our executor at the budget. ``resident``: our executor with everything in
        memory, beside a reader of the streamed extents. ``unswapped``: ONNX Runtime at its own
        best settings. ``unpacked``: the same without packed weights. ``mapped``: ONNX Runtime with
        memory-mapped weights. ``opening``: our executor, opened and closed for each inference that
        is asked for. Programs that are not ours have roles of their own.
    path
        Engine directory, or ONNX file.
    inputs
        ``.npz`` of inputs.
    budget_bytes
        Budget of the swapped side.
    shapes
        Input shapes; None for those of the build.
    options
        Restrictions of the swapped side's plan.
    streamed, readers
        Offset and length of each request of the reader beside the resident side, and number of
        requests in flight: those of the swapped side's plan.
    trace
        Number of the latest inferences in the timeline of the swapped side; 0 records none.
    gpu_memory, gpu_index
        Kind of memory for weights on a GPU, and its number.
    pauses
        Time between inferences; the resident side has none.
    storage_timeout_ms
        Longest time that storage may take for one request.
    storage_bytes_per_s
        Bandwidth that storage is slowed down to; None leaves it as it is.
    """

    role: str
    path: str
    inputs: str
    threads: int
    budget_bytes: int = 0
    load_mode: str = "auto"
    options: PlanOptions = PlanOptions()
    streamed: tuple[tuple[int, int], ...] = ()
    readers: int = 1
    trace: int = 0
    shapes: dict[str, tuple[int, ...]] | None = None
    gpu_memory: str = "auto"
    gpu_index: int = 0
    pauses: Pauses = Pauses()
    storage_timeout_ms: float = STORAGE_TIMEOUT_MS
    storage_bytes_per_s: float | None = None

    @classmethod
    def to(cls, engine: Engine, role: str, **fields: Any) -> Request:
        """A request for an engine at its shapes and on its device, with further ``fields``."""
        device = engine.device
        known = {
            "path": str(engine.folder),
            "inputs": "",
            "threads": device.threads,
            "shapes": engine.manifest.planned_shapes,
            "gpu_memory": device.gpu_memory,
            "gpu_index": device.gpu_index,
            "storage_bytes_per_s": device.pace.bytes_per_s if device.pace else None,
        }
        return cls(role=role, **{**known, **fields})

    @property
    def pace(self) -> Pace | None:
        """The pace of reads; a new one each time."""
        return Pace(self.storage_bytes_per_s) if self.storage_bytes_per_s else None


class Side(ABC):
    """A way to run the model, in a worker process."""

    @abstractmethod
    def run(self, count: int) -> Round:
        """Run one inference that does not count, then ``count`` that do."""

    def outputs(self) -> Mapping[str, Array]:
        """Outputs of the latest inference."""
        return {}

    def save(self, path: str) -> None:
        """Write these outputs to an ``.npz``."""
        save_npz(Path(path), self.outputs())

    def details(self) -> Any:
        """Facts for the report: any JSON."""
        return {}

    def close(self) -> None:  # noqa: B027
        """Release everything."""


def open_side(request: Request) -> Side:
    """The side that a request asks for."""
    if request.role == "opening":
        return _Opening(request)
    inputs = load_npz(Path(request.inputs))
    if request.role == "swapped":
        return _Swapped(request, inputs)
    if request.role == "resident":
        return _Resident(request, inputs)
    return _Whole(request, inputs)


class _Swapped(Side):
    def __init__(self, request: Request, inputs: dict[str, Array]) -> None:
        self._inputs = inputs
        self._pauses = request.pauses
        engine = _engine(request)
        self._device = engine.device
        self._gpu_bytes = gpu_free_bytes(self._device)
        self._started = time.perf_counter()
        self._executor = _executor(engine, request)
        if engine.manifest.has_windows:
            forget_peak()  # of the page cache that sessions were made through
        self._recorder: Recorder | None = None
        if request.trace:
            opened = self._started, time.perf_counter()
            self._recorder = Recorder(engine.manifest.source.name, request.trace, opened)
        self._outputs: dict[str, Array]
        self._outputs, _ = self._infer()
        self._opened = self._executor.stats

    def run(self, count: int) -> Round:
        self._outputs = {}
        self._infer()
        timings = []
        pacer = Pacer(self._pauses)
        for _ in range(count):
            self._outputs = {}
            before = self._executor.stats
            around: dict[str, Any] = {"idle_ms": pacer.wait()}
            around["ahead_bytes"] = self._executor.stats.read_bytes - before.read_bytes
            self._outputs, last = self._infer()
            around["is_late"] = pacer.is_late()
            around["reading_ms"] = self._executor.stats.reading_ms - before.reading_ms
            timings.append(Timing.of(last, self._started, **around))
        return Round(tuple(timings))

    def _infer(self) -> tuple[dict[str, Array], Inference]:
        outputs = self._executor(self._inputs)
        last = self._executor.stats.last
        assert last is not None
        if self._recorder is not None:
            self._recorder.note(self._executor.plan, last)
        return outputs, last

    def outputs(self) -> Mapping[str, Array]:
        return self._outputs

    def details(self) -> Any:
        packed = packing(self._executor.manifest, self._executor.plan.joined)
        return {
            "load_mode": str(self._executor.load_mode),
            "opening": {
                "open_ms": self._opened.open_ms,
                "sessions_ms": self._opened.open_sessions_ms,
                "read_ms": self._opened.open_read_ms,
                "read_bytes": self._opened.open_read_bytes,
                "plan_ms": self._opened.open_plan_ms,
                "packing_bytes": packed.read_bytes,
                "transient_bytes": packed.transient_bytes,
                "first_ms": self._opened.latency.sum_ms,
            },
            "resident_peak_bytes": peak_resident_bytes(),
            "gpu_bytes": self._gpu_bytes - gpu_free_bytes(self._device),
            "trace": trace_events([self._recorder] if self._recorder is not None else []),
        }

    def close(self) -> None:
        self._executor.close()


class _Opening(Side):
    """Opens and closes an engine, over and over; a latency is the time that opening took."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self._engine = _engine(request)
        self._read_bytes = 0
        self._plans_ms: list[float] = []

    def run(self, count: int) -> Round:
        """Open the engine ``count`` times; each of them counts."""
        return Round.of([self._open() for _ in range(count)])

    def _open(self) -> float:
        with _executor(self._engine, self._request) as executor:
            stats = executor.stats
            self._read_bytes = stats.open_read_bytes
            self._plans_ms.append(stats.open_plan_ms)
            return stats.open_ms

    def details(self) -> Any:
        return {"read_bytes": self._read_bytes, "plans_ms": self._plans_ms}


class _Resident(Side):
    def __init__(self, request: Request, inputs: dict[str, Array]) -> None:
        self._inputs = inputs
        self._executor = SwapExecutor(_engine(request), "100%")
        self._storage = WeightFile(
            Path(request.path) / WEIGHTS, LoadMode(request.load_mode), pace=request.pace
        )
        extents = [Extent(offset, nbytes) for offset, nbytes in request.streamed]
        largest = max((extent.nbytes for extent in extents), default=1)
        self._reader = BackgroundReader(
            self._storage, extents, readers=request.readers, read_bytes=largest
        )

    def run(self, count: int) -> Round:
        seconds = [self._reader.once() for _ in range(count)]
        self._execute()
        idle = tuple(self._execute() for _ in range(count))
        self._both()
        return Round.of(
            [self._both() for _ in range(count)],
            idle_ms=idle,
            storage_bytes_per_s=self._reader.total_bytes / median(seconds),
        )

    def _execute(self) -> float:
        start = time.perf_counter()
        self._executor(self._inputs)
        return (time.perf_counter() - start) * 1e3

    def _both(self) -> float:
        """Milliseconds of one inference beside one reading of all extents."""
        thread = threading.Thread(target=self._reader.once)
        start = time.perf_counter()
        thread.start()
        self._executor(self._inputs)
        thread.join()
        return (time.perf_counter() - start) * 1e3

    def outputs(self) -> Mapping[str, Array]:
        return self._executor(self._inputs)

    def close(self) -> None:
        self._executor.close()
        self._storage.close()


class _Whole(Side):
    def __init__(self, request: Request, inputs: dict[str, Array]) -> None:
        import onnxruntime as ort

        self._pauses = request.pauses
        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = request.threads
        register_custom_ops(options)
        if request.role == "mapped":
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        if request.role in ("mapped", "unpacked"):
            options.add_session_config_entry("session.disable_prepacking", "1")
        self._session = ort.InferenceSession(request.path, options, ["CPUExecutionProvider"])
        taken = [given.name for given in self._session.get_inputs()]
        self._inputs = {name: inputs[name] for name in taken if name in inputs}
        self._names = [output.name for output in self._session.get_outputs()]
        self._outputs: list[Array] = []

    def run(self, count: int) -> Round:
        self._session.run(None, self._inputs)
        latency = []
        pacer = Pacer(self._pauses)
        for _ in range(count):
            pacer.wait()
            start = time.perf_counter()
            self._outputs = self._session.run(None, self._inputs)
            latency.append((time.perf_counter() - start) * 1e3)
        return Round.of(latency)

    def outputs(self) -> Mapping[str, Array]:
        return dict(zip(self._names, self._outputs, strict=True))

    def close(self) -> None:
        del self._session


def _engine(request: Request) -> Engine:
    engine = Engine.open(request.path).on_threads(
        request.threads, own=True, gpu_memory=request.gpu_memory, gpu_index=request.gpu_index
    )
    return engine.at(request.shapes) if request.shapes else engine


def _executor(engine: Engine, request: Request) -> SwapExecutor:
    return SwapExecutor(
        engine.on(replace(engine.device, pace=request.pace)),
        request.budget_bytes,
        load_mode=request.load_mode,
        options=request.options,
        trace=request.trace > 0,
        storage_timeout_ms=request.storage_timeout_ms,
    )


def gpu_free_bytes(device: Device) -> int:
    """Memory of the device's GPU that no process uses; 0 on the CPU."""
    if not device.gpu:
        return 0
    return open_cuda(device.gpu_index).free_bytes()
