"""One plan in force: its memory, its segments, its readers, and the inferences that they run."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from swapnet.errors import BackendError, BudgetError
from swapnet.executor.backends.base import Array, Backend, Bindings, Memory, Segment, ValueStore
from swapnet.executor.backends.lookup import LookupSegment
from swapnet.executor.planning.layout import last_uses
from swapnet.executor.planning.plan import Plan, Read
from swapnet.executor.sharing import Sharing
from swapnet.executor.swapping.loading import load_once, loading, pieces
from swapnet.executor.swapping.moments import Mark
from swapnet.executor.swapping.patience import Patience, StalledError
from swapnet.executor.swapping.pipeline import Pipeline, ReadEvent
from swapnet.executor.swapping.storage import WeightFile
from swapnet.manifest import Manifest

__all__ = ["Execution", "Inference", "StepEvent"]


@dataclass(frozen=True, slots=True)
class StepEvent:
    """One executed step: times of `time.perf_counter`, in seconds; on a GPU those of the device.

    Attributes
    ----------
    step
        Index of the step in the plan.
    wait
        End of the step before it. From then to ``start`` it waits: for bytes, for its turn, and for
        the pipeline to note that end. `Inference.stall_ms` is the wait for bytes alone.
    start, end
        Beginning and end of its execution.
    turn_s
        Last part of the wait: bytes were there, and other models computed.
    """

    step: int
    wait: float
    start: float
    end: float
    turn_s: float = 0.0


@dataclass(frozen=True)
class Inference:
    """Record of one inference.

    Attributes
    ----------
    start
        Its begin, a time of `time.perf_counter`, in seconds.
    latency_ms
        Time from checked inputs to outputs.
    input_ms, output_ms
        Parts of the latency before the first step and after the last: inputs are brought to where
        kernels read them, outputs from where kernels wrote them.
    stall_ms
        Part of the latency that was spent waiting for bytes.
    read_bytes
        Bytes read from storage for this inference, in advance or not, without looked-up rows.
    steps
        Its steps in order.
    reads
        Requests that ended since the inference before; empty unless tracing.
    """

    start: float
    latency_ms: float
    input_ms: float
    output_ms: float
    stall_ms: float
    read_bytes: int
    steps: tuple[StepEvent, ...]
    reads: tuple[ReadEvent, ...] = ()


class Execution:
    """Everything that belongs to one plan: memory, segments, readers.

    Parameters
    ----------
    manifest, plan, storage, backend
        The engine, its plan, its weight file, and the runtime library.
    patience
        Limit of the time that storage may take.
    values
        Memory for values across cuts.
    arena
        Memory for weights, of the plan's size.
    resident
        Positions in `Plan.residents` of what lies in its place already; all others are read.
    sharing
        Parts that are shared with other models; None in a process of its own.
    trace, before_read
        See `SwapExecutor`.

    Attributes
    ----------
    sessions_ms
        Time of making segments and binding them, beside which resident weights are read.
    load_ms, loaded_bytes
        Time until these were there after that, and their bytes.
    last
        The latest inference; None before the first.

    Raises
    ------
    StorageError
        A resident block could not be read.
    BackendError
        The runtime library refuses a segment.
    """

    def __init__(
        self,
        manifest: Manifest,
        plan: Plan,
        storage: WeightFile,
        backend: Backend,
        *,
        patience: Patience,
        values: ValueStore,
        arena: Memory,
        resident: Collection[int] = (),
        sharing: Sharing | None = None,
        trace: bool,
        before_read: Callable[[Any, Read], None] | None,
    ) -> None:
        self.plan = plan
        self.last: Inference | None = None
        self._manifest = manifest
        self.arena = arena
        self._values = values
        self._backend = backend
        self._lap = 0
        self._broken = False
        self._lookups = {
            block.index: LookupSegment(block, storage, self._values, self._backend, patience)
            for block in manifest.blocks
            if not block.is_graph
        }
        unused = last_uses(manifest)
        self._unused_after = [
            [n for n, b in unused.items() if step.is_last and step.first <= b <= step.last]
            for step in plan.steps
        ]
        self._late_from = -1
        if plan.striping is not None and plan.striping.late_bytes:
            firsts = [step.first for step in plan.steps]
            self._late_from = firsts.index(plan.striping.late_from)
        hook = before_read
        self._loader = backend.loader(
            storage, arena, plan, None if hook is None else lambda read: hook(arena, read)
        )
        self._order = None if sharing is None else sharing.order
        self._pipeline = Pipeline(plan, self._loader, self._order, patience=patience)
        try:
            kept = _kept(manifest, plan, resident, self._loader.largest_bytes)
            self.loaded_bytes = sum(read.stored_bytes for read in kept)
            # Packing weights takes memory for a moment, which the arena has until it is filled. On
            # a GPU both at once are not tried.
            apart = manifest.has_windows or backend.is_asynchronous
            begun = time.perf_counter()
            with loading(self._loader, () if apart else kept, patience):
                bindings = _bindings(manifest, plan, self.arena, self._values)
                self._segments = self._make_segments(bindings)
                made = time.perf_counter()
            if apart:
                load_once(self._loader, kept, patience)
            self.load_ms = (time.perf_counter() - made) * 1e3
            self.sessions_ms = (made - begun) * 1e3
        except BaseException as error:
            self.close(keep=isinstance(error, StalledError))
            raise
        self._pipeline.start(trace=trace)

    @property
    def read_bytes(self) -> int:
        """Bytes read since the plan is in force, with looked-up rows, without resident blocks."""
        return self._pipeline.read_bytes + sum(r.read_bytes for r in self._lookups.values())

    @property
    def reading_ms(self) -> float:
        """Time in which at least one request of the pipeline was under way."""
        return self._pipeline.reading_s * 1e3

    def infer(
        self,
        inputs: dict[str, Array],
        out: Mapping[str, Array] | None = None,
        kept: Mapping[str, Array] | None = None,
    ) -> dict[str, Array]:
        """Run one inference on checked arrays; see `SwapExecutor.__call__`.

        ``kept`` has memory of the executor for outputs, which are not returned.
        """
        run = partial(self._infer, inputs, out or {}, kept or {})
        return run() if self._values.actual is None else self._values.actual.learning(run)

    def _infer(
        self,
        inputs: dict[str, Array],
        out: Mapping[str, Array],
        kept: Mapping[str, Array],
    ) -> dict[str, Array]:
        if self._broken:
            with suppress(BackendError):
                self._backend.synchronize()
            self._pipeline.restart()
            self._lap = 0
            self._broken = False
        self._broken = True
        start = time.perf_counter()
        given, results = self._values.begin(inputs, {**out, **kept})
        results.update(kept)
        if kept and self._values.actual is not None:
            # Of a cache's inputs one may be larger than planned where another is smaller.
            self._values.actual.check_room()
        begun = time.perf_counter()
        if self._order is not None:
            self._order.begin()
        try:
            steps, waited_s = self._execute(given, results)
            executed = time.perf_counter()
            outputs = self._values.finish(given, results, out)
        finally:
            if self._order is not None:
                self._order.leave()
            given.clear()
        end = time.perf_counter()
        self._lap += 1
        events = tuple(
            StepEvent(index, wait.time, begin.time, end.time, turn_s)
            for index, (wait, begin, end, turn_s) in enumerate(steps)
        )
        if self._backend.is_asynchronous:
            waited_s = sum(event.start - event.wait for event in events)
        self.last = Inference(
            start=start,
            latency_ms=(end - start) * 1e3,
            input_ms=(begun - start) * 1e3,
            output_ms=(end - executed) * 1e3,
            stall_ms=waited_s * 1e3,
            read_bytes=self._pipeline.take_read_bytes(self._lap - 1),
            steps=events,
            reads=self._pipeline.take_events(self._lap - 1),
        )
        self._broken = False
        return {name: array for name, array in outputs.items() if name not in kept}

    def _execute(
        self, given: dict[str, Any], results: Mapping[str, Array]
    ) -> tuple[list[tuple[Mark, Mark, Mark, float]], float]:
        """Wait, beginning, end and turn of each step, and the seconds that the host waited."""
        backend = self._backend
        steps: list[tuple[Mark, Mark, Mark, float]] = []
        waited_s = 0.0
        for index in range(len(self.plan.steps)):
            asked = steps[-1][2] if steps else backend.mark()
            arrival = self._pipeline.wait(self._lap, index)
            turn_s = 0.0
            if self._order is not None:
                arrived = time.perf_counter()
                self._order.take()
                turn_s = time.perf_counter() - arrived
            waited_s += arrival.waited_s
            backend.follow(arrival.marks)
            if index == self._late_from:
                self._values.give_back(self.plan.steps[index].first)
            begun = backend.mark()
            self._run(self._segments[index], given, results)
            for name in self._unused_after[index]:
                given.pop(name, None)
            ended = backend.mark()
            steps.append((asked, begun, ended, turn_s))
            self._pipeline.done(ended)
        return steps, waited_s

    def _run(self, segment: Segment, given: dict[str, Any], results: Mapping[str, Array]) -> None:
        try:
            segment.run(given, results)
        except BudgetError:
            # Scratch memory may be short only because other models used it at that moment.
            if self._order is None or not self._order.clear():
                raise
            segment.run(given, results)

    def close(self, *, keep: bool = False) -> bool:
        """Stop the readers and forget the segments, after running kernels have ended.

        Parameters
        ----------
        keep
            Keep the loader's memory: requests to it may still come.

        Returns
        -------
        bool
            False where that holds for the arena: it can't be used again.
        """
        keep |= not self._pipeline.close()
        with suppress(BackendError):
            self._backend.synchronize()
        if not keep:
            self._loader.close()
        for lookup in self._lookups.values():
            lookup.close()
        self._segments = []
        return not keep

    def _make_segments(self, bindings: Bindings) -> list[Segment]:
        blocks = self._manifest.blocks
        graphs = [step for step in self.plan.steps if blocks[step.first].is_graph]
        made = dict(zip(graphs, self._backend.segments(graphs, bindings), strict=True))
        return [
            self._lookups[step.first] if step.first in self._lookups else made[step]
            for step in self.plan.steps
        ]


def _kept(
    manifest: Manifest, plan: Plan, present: Collection[int], largest_bytes: int
) -> list[Read]:
    """Reads of resident weights that are not ``present``."""
    kept: list[Read] = []
    users = (*range(len(plan.places)), *(each.blocks[0] for each in manifest.shared))
    for position, (user, place) in enumerate(zip(users, plan.residents, strict=True)):
        if place.resident and position not in present:
            kept += pieces(user, place, largest_bytes)
    return kept


def _bindings(manifest: Manifest, plan: Plan, arena: Memory, values: ValueStore) -> Bindings:
    weights: dict[tuple[int, str], int] = {}
    apart = {extent: offset for place in plan.shared for extent, offset in place.offsets()}
    for block, place in zip(manifest.blocks, plan.places, strict=True):
        lying = {**apart, **dict(place.offsets())}
        for extent, stored in manifest.stored_for(block.index):
            start = arena.address + lying[extent] - extent.offset
            weights |= {(block.index, weight.name): start + weight.offset for weight in stored}
    return Bindings(weights, values.addresses, arena, plan.places, values.actual)
