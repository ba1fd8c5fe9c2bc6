"""`SwapExecutor`: one model inside one budget."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

from swapnet.budget import Budget
from swapnet.errors import BackendError, BudgetError, StorageError, SwapnetError
from swapnet.executor.arena import Arena, new_array
from swapnet.executor.backends import open_backend
from swapnet.executor.backends.base import Array, Backend, Bindings, Segment
from swapnet.executor.device import Device
from swapnet.executor.inputs import check_inputs
from swapnet.executor.layout import last_uses
from swapnet.executor.lookup import LookupSegment
from swapnet.executor.machine import memory_bytes
from swapnet.executor.memory import READ_BYTES, demand, usage
from swapnet.executor.pipeline import READERS, Pipeline, ReadEvent, read_once
from swapnet.executor.plan import Plan, PlanOptions, Read, make_plan
from swapnet.executor.storage import LoadMode, WeightFile
from swapnet.executor.values import Values
from swapnet.executor.verify import check_weights
from swapnet.manifest import WEIGHTS, Extent, Manifest, load_manifest
from swapnet.profile import load_profile
from swapnet.tensors import concrete_nbytes
from swapnet.units import format_size

__all__ = ["Inference", "Stats", "StepEvent", "SwapExecutor"]


@dataclass(frozen=True)
class StepEvent:
    """One executed step: times of `time.perf_counter`, in seconds."""

    step: int
    wait: float
    """When it began to wait for its bytes."""
    start: float
    end: float


@dataclass(frozen=True)
class Inference:
    """What one inference did.

    Attributes
    ----------
    latency_ms
        From checked inputs to outputs.
    stall_ms
        Of that, waiting for bytes.
    read_bytes
        Read from storage for it, in advance or not; looked-up rows are not counted.
    steps
        Its steps in order.
    reads
        Requests that ended since the inference before; empty unless tracing.
    """

    latency_ms: float
    stall_ms: float
    read_bytes: int
    steps: tuple[StepEvent, ...]
    reads: tuple[ReadEvent, ...] = ()


@dataclass(frozen=True)
class Stats:
    """Counted since the executor was opened or its budget changed.

    Attributes
    ----------
    inferences
        Completed ones.
    read_bytes
        Read from storage, prefetching and looked-up rows included; resident blocks not.
    last
        The latest inference, None before the first.
    """

    inferences: int = 0
    read_bytes: int = 0
    last: Inference | None = None


class SwapExecutor:
    """Executes an engine inside a memory budget.

    Parameters
    ----------
    folder
        Engine directory.
    budget
        ``"64MiB"``, ``"25%"`` of the demand, ``"weights:25%"``, or bytes.
    device
        Compute threads and whose they are.
    load_mode
        How weights are read; `load_mode` says afterwards which way is used.
    options
        How to plan.
    verify
        Compare all checksums first.
    trace
        Record every request, for a timeline.
    before_read
        Called before each request overwrites its place; tests poison it.

    Raises
    ------
    EngineError
        The engine directory is missing, damaged, or compiled for something else.
    BudgetError
        The budget is too small for the model or larger than the machine's memory.
    StorageError
        The weights can't be read.
    BackendError
        The runtime library refuses a segment.

    Notes
    -----
    Safe to call from several threads: inferences take turns. A failed inference leaves the
    executor usable. Outputs are new arrays that belong to the caller.

    Examples
    --------
    >>> with SwapExecutor("engines/resnet101", budget="64MiB") as executor:  # doctest: +SKIP
    ...     outputs = executor({"input": image})
    """

    def __init__(
        self,
        folder: str | Path,
        budget: Budget | str | int,
        *,
        device: Device | None = None,
        load_mode: LoadMode | str = LoadMode.AUTO,
        options: PlanOptions | None = None,
        readers: int = READERS,
        verify: bool = False,
        trace: bool = False,
        before_read: Callable[[Arena, Read], None] | None = None,
    ) -> None:
        self.folder = Path(folder)
        self.manifest: Manifest = load_manifest(self.folder)
        self._device = device or Device()
        self._options = options
        self._readers = readers
        self._trace = trace
        self._before_read = before_read
        self._turn = threading.Lock()
        self._admission = threading.Lock()
        self._queue: ThreadPoolExecutor | None = None
        self._closing = self._closed = False
        self._state: _State | None = None
        self._stats = Stats()
        parsed = Budget.parse(budget)
        self._backend: Backend = open_backend(
            self.folder,
            self.manifest,
            self._device,
            scratch_bytes=usage(self.manifest).scratch_bytes,
        )
        self._profile = load_profile(self.folder, self.manifest, self._device.fingerprint)
        self._storage = WeightFile(self.folder / WEIGHTS, LoadMode.parse(load_mode))
        try:
            if self._storage.nbytes != self.manifest.weights_nbytes:
                raise StorageError(
                    f"{self._storage.path} is damaged",
                    why=f"it has {self._storage.nbytes} bytes, it should have "
                    f"{self.manifest.weights_nbytes}",
                    hint="build the engine again: swapnet build",
                )
            if verify:
                check_weights(self.manifest, self._storage)
            self._load(self._make_plan(parsed))
        except BaseException:
            self.close()
            raise

    @property
    def load_mode(self) -> LoadMode:
        """How weights are read."""
        return self._storage.mode

    @property
    def plan(self) -> Plan:
        """The plan in force."""
        return self._plan

    @property
    def stats(self) -> Stats:
        """What was counted so far."""
        state = self._state
        return self._stats if state is None else state.snapshot()

    def __call__(self, inputs: Mapping[str, Any]) -> dict[str, Array]:
        """Run one inference.

        Parameters
        ----------
        inputs
            One array per model input, by name.

        Returns
        -------
        dict
            One new array per model output, by name.

        Raises
        ------
        InputError
            A name, element type, shape or index is wrong.
        BudgetError
            A shape is larger than planned for.
        StorageError
            A block could not be read; the message names it.
        BackendError
            The runtime library refused.
        """
        checked = check_inputs(self.manifest, inputs)
        with self._turn:
            return self._opened().infer(checked)

    def submit(self, inputs: Mapping[str, Any]) -> Future[dict[str, Array]]:
        """Queue one inference; errors come with the future's result.

        Raises
        ------
        BackendError
            The executor is closed.
        """
        with self._admission:
            if self._closing:
                raise _closed()
            if self._queue is None:
                self._queue = ThreadPoolExecutor(1, thread_name_prefix="swapnet-submit")
            return self._queue.submit(self, inputs)

    def set_budget(self, budget: Budget | str | int) -> None:
        """Replan between inferences; the engine is not built again.

        Raises
        ------
        InputError, BudgetError
            The budget is none, or impossible; the plan before stays in force.
        StorageError, BackendError
            The new plan could not be loaded; the plan before is loaded again, or, if that fails
            too, at the next inference.
        """
        plan = self._make_plan(Budget.parse(budget))
        with self._turn:
            if self._closed:
                raise _closed()
            before = self._plan
            self._release()
            try:
                self._load(plan)
            except BaseException:
                with suppress(SwapnetError):
                    self._load(before)
                raise

    def close(self) -> None:
        """Finish what was submitted, then release everything. Safe to call twice."""
        with self._admission:
            queue, self._queue = self._queue, None
            self._closing = True
        if queue is not None:
            queue.shutdown()
        with self._turn:
            self._closed = True
            self._release()
            self._backend.close()
            self._storage.close()

    def __enter__(self) -> SwapExecutor:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _opened(self) -> _State:
        """The state of the plan in force; loaded again where it could not be before."""
        if self._closed:
            raise _closed()
        if self._state is None:
            self._load(self._plan)
        assert self._state is not None
        return self._state

    def _make_plan(self, budget: Budget) -> Plan:
        budget_bytes = budget.resolve(demand(self.manifest))
        machine = memory_bytes()
        if budget_bytes > machine:
            raise BudgetError(
                f"a budget of {budget} is more than this machine has",
                why=f"it is {budget_bytes} bytes, the machine has {machine}",
                hint=f"give at most {format_size(machine)}",
            )
        return make_plan(self.manifest, self._profile, budget_bytes, self._options)

    def _load(self, plan: Plan) -> None:
        self._state = _State(self, plan)
        self._plan = plan

    def _release(self) -> None:
        """Give the memory back before other is taken."""
        if self._state is not None:
            self._stats = self._state.snapshot()
            self._state.close()
            self._state = None


def _closed() -> BackendError:
    return BackendError(
        "the executor is closed",
        why="it was used after close()",
        hint="open a new SwapExecutor",
    )


class _State:
    """Everything that belongs to one plan: memory, segments, readers."""

    def __init__(self, owner: SwapExecutor, plan: Plan) -> None:
        self.plan = plan
        self.stats = Stats()
        self._manifest = manifest = owner.manifest
        self._arena = Arena(plan.arena_bytes)
        self._values = Values(manifest)
        self._backend = owner._backend
        self._lap = 0
        self._broken = False
        storage = owner._storage
        self._lookups = {
            block.index: LookupSegment(block, storage, self._values, self._backend)
            for block in manifest.blocks
            if not block.is_graph
        }
        unused = last_uses(manifest)
        self._unused_after = [
            [name for name, block in unused.items() if step.first <= block <= step.last]
            for step in plan.steps
        ]
        hook = owner._before_read
        self._pipeline = Pipeline(
            plan,
            storage,
            self._arena,
            readers=owner._readers,
            before_read=None if hook is None else lambda read: hook(self._arena, read),
        )
        try:
            read_once(storage, self._arena, list(_kept(manifest, plan)))
            self._segments = self._make_segments(
                _bindings(manifest, plan, self._arena, self._values)
            )
        except BaseException:
            self.close()
            raise
        self._pipeline.start(trace=owner._trace)

    def snapshot(self) -> Stats:
        read = self._pipeline.read_bytes + sum(r.read_bytes for r in self._lookups.values())
        return replace(self.stats, read_bytes=read)

    def infer(self, inputs: dict[str, Array]) -> dict[str, Array]:
        if self._broken:
            self._pipeline.restart()
            self._lap = 0
            self._broken = False
        self._broken = True
        start = time.perf_counter()
        results = {
            t.name: new_array(t)
            for t in self._manifest.outputs
            if concrete_nbytes(t.dtype, t.shape) is not None
        }
        results |= {
            t.name: inputs[t.name].copy() for t in self._manifest.outputs if t.name in inputs
        }
        given: dict[str, Any] = dict(inputs)
        try:
            events, stall = self._execute(given, results)
            outputs = {
                t.name: results[t.name] if t.name in results else self._backend.array(given[t.name])
                for t in self._manifest.outputs
            }
        finally:
            given.clear()
        latency = time.perf_counter() - start
        self._lap += 1
        self.stats = Stats(
            inferences=self.stats.inferences + 1,
            last=Inference(
                latency * 1e3,
                stall * 1e3,
                self._pipeline.take_read_bytes(self._lap - 1),
                tuple(events),
                self._pipeline.take_events(),
            ),
        )
        self._broken = False
        return outputs

    def _execute(
        self, given: dict[str, Any], results: Mapping[str, Array]
    ) -> tuple[list[StepEvent], float]:
        """Run all steps; their events, and the seconds spent waiting for bytes."""
        events: list[StepEvent] = []
        stall = 0.0
        for index in range(len(self.plan.steps)):
            asked = time.perf_counter()
            stall += self._pipeline.wait(self._lap, index)
            begun = time.perf_counter()
            self._segments[index].run(given, results)
            for name in self._unused_after[index]:
                given.pop(name, None)
            events.append(StepEvent(index, asked, begun, time.perf_counter()))
            self._pipeline.done()
        return events, stall

    def close(self) -> None:
        self._pipeline.close()
        for lookup in self._lookups.values():
            lookup.close()
        self._segments = []

    def _make_segments(self, bindings: Bindings) -> list[Segment]:
        blocks = self._manifest.blocks
        graphs = [step for step in self.plan.steps if blocks[step.first].is_graph]
        made = dict(zip(graphs, self._backend.segments(graphs, bindings), strict=True))
        return [
            self._lookups[step.first] if step.first in self._lookups else made[step]
            for step in self.plan.steps
        ]


def _kept(manifest: Manifest, plan: Plan) -> list[Read]:
    """The reads that fill the shared and resident regions."""

    def pieces(block: int, extent: Extent, offset: int) -> list[Read]:
        size = READ_BYTES
        return [
            Read(
                block,
                extent.offset + start,
                offset + start,
                min(size, extent.nbytes - start),
                0,
            )
            for start in range(0, extent.nbytes, size)
        ]

    kept = pieces(-1, manifest.shared_extent, 0)
    for block, place in zip(manifest.blocks, plan.places, strict=True):
        if place.resident and place.nbytes:
            kept += pieces(block.index, block.extent, place.offset)
    return kept


def _bindings(manifest: Manifest, plan: Plan, arena: Arena, values: Values) -> Bindings:
    weights = {
        (block.index, w.name): arena.address + place.offset + w.offset - block.extent.offset
        for block, place in zip(manifest.blocks, plan.places, strict=True)
        for w in block.weights
    }
    start = manifest.shared_extent.offset
    weights |= {(-1, w.name): arena.address + w.offset - start for w in manifest.shared}
    return Bindings(weights, values.addresses)
