"""Timelines of inferences, in the Trace Event Format of Perfetto and chrome://tracing.

Each model is a process. Its first thread has the inferences, each around its copies, waits and
steps; every reader is one more thread. One more process has the decisions of a scheduler, a thread
for each kind of instruction. Times are whole microseconds: viewers drop slices that
overlap by a rounded fraction of one.

Format: "Trace Event Format" by Google, events of the phases ``X``, ``C``, ``i`` and ``M``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from itertools import pairwise
from math import inf
from typing import TYPE_CHECKING, Any, NamedTuple

from swapnet.executor.execution import Inference
from swapnet.executor.planning.plan import Plan, Step
from swapnet.strips import Striping

if TYPE_CHECKING:
    from swapnet.executor.runtime.decisions import Decision

__all__ = [
    "READERS",
    "SCHEMA",
    "Recorder",
    "TraceEvent",
    "block_range",
    "trace_events",
    "trace_file",
    "ways_to_save",
]

SCHEMA = "swapnet-trace/1"

TraceEvent = dict[str, Any]
"""One event as JSON: ``ts`` and ``dur`` in µs."""

_INFERENCES = 1
"""Number of the thread of inferences."""

READERS = 2
"""Number of the first reader's thread."""


class _Kept(NamedTuple):
    number: int
    plan: Plan
    inference: Inference


class Recorder:
    """Keeps the first inference of a model and the latest ones.

    Parameters
    ----------
    name
        Name of the model.
    count
        Number of the latest inferences to keep.
    opened
        Begin and end of the opening, times of `time.perf_counter`; None where it was not seen.
    """

    def __init__(self, name: str, count: int, opened: tuple[float, float] | None = None) -> None:
        self.name = name
        self.opened = opened
        self._noted = 0
        self._first: list[_Kept] = []
        self._latest: deque[_Kept] = deque(maxlen=count)

    def note(self, plan: Plan, inference: Inference) -> None:
        """Keep an inference that has ended, and the plan that it was executed by."""
        self._noted += 1
        kept = _Kept(self._noted, plan, inference)
        self._first = self._first or [kept]
        self._latest.append(kept)

    def kept(self, since: float = -inf) -> list[_Kept]:
        """The first inference, and the latest that started at ``since`` or later."""
        latest = [k for k in self._latest if k.inference.start >= since]
        return [*(k for k in self._first if k not in latest), *latest]

    def start_of(self, count: int) -> float:
        """Start of the last ``count`` inferences; infinite without any."""
        return min((k.inference.start for k in [*self._latest][-count:]), default=inf)


def trace_events(
    recorders: Sequence[Recorder], count: int | None = None, decisions: Sequence[Decision] = ()
) -> list[TraceEvent]:
    """Events of all models, each a process of its own.

    Parameters
    ----------
    recorders
        The inferences of each model.
    count
        Leave out what came before the last ``count`` inferences of any model, but first ones.
    decisions
        Those of the scheduler of all.
    """
    since = -inf if count is None else min(recorder.start_of(count) for recorder in recorders)
    names: list[TraceEvent] = []
    events: list[TraceEvent] = []
    for pid, recorder in enumerate(recorders, 1):
        kept = recorder.kept(since)
        readers = {read.reader for k in kept for read in k.inference.reads}
        names.append(_event("M", pid, 0, "process_name", args={"name": recorder.name}))
        for tid in (_INFERENCES, *(READERS + reader for reader in sorted(readers))):
            lane = "inferences" if tid == _INFERENCES else f"reader {tid - READERS}"
            names.append(_event("M", pid, tid, "thread_name", args={"name": lane}))
        if recorder.opened is not None:
            events += _Lane(pid, _INFERENCES).add("open", "open", *recorder.opened)
        events += [*_slices(pid, kept), *_counters(pid, kept)]
    decided = [*_decided(len(recorders) + 1, [d for d in decisions if d.at_s >= since])]
    names += [event for event in decided if event["ph"] == "M"]
    events += [event for event in decided if event["ph"] == "i"]
    origin = min((event["ts"] for event in events), default=0)
    return names + [{**event, "ts": event["ts"] - origin} for event in events]


def trace_file(events: Sequence[TraceEvent], command: str, plan: Any = None) -> dict[str, Any]:
    """A file of the format, with schema, command and plan beside the events."""
    other = {"schema": SCHEMA, "command": command, "plan": plan}
    return {"traceEvents": events, "displayTimeUnit": "ms", "otherData": other}


def block_range(step: Step) -> str:
    """The blocks of a step, in words, and its strips."""
    blocks = (
        f"block {step.first}" if step.first == step.last else f"blocks {step.first}-{step.last}"
    )
    if step.strips is None:
        return blocks
    count = step.strips.count
    one = f", strip {(step.strip or 0) + 1} of {count}"
    return blocks + (f" in {count} strips" if step.strip is None else one)


def ways_to_save(striping: Striping) -> tuple[str, ...]:
    """What is executed in strips, in words, and where pages are given back."""
    runs = (
        block_range(Step(run.first, run.last, 0, run))
        + (", weights read for each" if run.apart else "")
        for run in striping.runs
    )
    late = (f"pages of dead values given back before block {striping.late_from}",)
    return (*runs, *(late if striping.late_bytes else ()))


class _Lane:
    """One thread of the trace: a slice begins after the one before it."""

    def __init__(self, pid: int, tid: int, begin: float = 0.0, end: float = inf) -> None:
        self._pid, self._tid, self._begin, self._end = pid, tid, begin, end

    def add(
        self, name: str, cat: str, begin: float, end: float, **args: int
    ) -> Iterator[TraceEvent]:
        """A slice, cut to the time that is left: the clock of a GPU differs a little."""
        begin, end = max(begin, self._begin), min(end, self._end)
        if (dur := _us(end) - _us(begin)) > 0:
            self._begin = end
            times = {"ts": _us(begin), "dur": dur}
            yield _event("X", self._pid, self._tid, name, cat=cat, **times, args=args)


def _slices(pid: int, kept: Sequence[_Kept]) -> Iterator[TraceEvent]:
    readers: dict[int, _Lane] = {}
    for number, plan, inference in kept:
        begin, end = inference.start, inference.start + inference.latency_ms / 1e3
        name = "first inference" if number == 1 else f"inference {number}"
        yield from _Lane(pid, _INFERENCES).add(name, "inference", begin, end, number=number)
        lane = _Lane(pid, _INFERENCES, begin, end)
        yield from lane.add("copy inputs", "copy", begin, begin + inference.input_ms / 1e3)
        for event in inference.steps:
            step = block_range(plan.steps[event.step])
            arrived = event.start - event.turn_s
            yield from lane.add(f"wait for {step}", "wait", event.wait, arrived)
            yield from lane.add(f"turn of {step}", "turn", arrived, event.start)
            yield from lane.add(step, "step", event.start, event.end)
        yield from lane.add("copy outputs", "copy", end - inference.output_ms / 1e3, end)
        for read in inference.reads:
            lane = readers.setdefault(read.reader, _Lane(pid, READERS + read.reader))
            name = f"block {read.block}"
            yield from lane.add(name, "read", read.start, read.end, nbytes=read.nbytes)


def _decided(pid: int, decisions: Sequence[Decision]) -> Iterator[TraceEvent]:
    """A moment for each instruction, and for what was refused before it could be decided."""
    lanes: dict[str, int] = {}
    for event, args, instructions, at_s in decisions:
        said = [(each.do, str(each)) for each in instructions]
        if event == "refused":
            said.append(("refuse", " ".join(("refused", *args))))
        for do, name in said:
            if not lanes:
                yield _event("M", pid, 0, "process_name", args={"name": "scheduler"})
            if do not in lanes:
                lanes[do] = len(lanes) + 1
                yield _event("M", pid, lanes[do], "thread_name", args={"name": do})
            where = {"ts": _us(at_s), "s": "t", "cat": "decision"}
            yield _event("i", pid, lanes[do], name, **where, args={"event": event})


def _counters(pid: int, kept: Sequence[_Kept]) -> Iterator[TraceEvent]:
    """Bytes of the ring that a step still needs, and memory in use beside the budget.

    A byte is in the ring from the end of its read until the end of the step that needs it.
    """

    def count(name: str, time: float, nbytes: int) -> TraceEvent:
        return _event("C", pid, 0, name, ts=_us(time), args={"bytes": nbytes})

    before: _Kept | None = None
    filled = 0
    for k in kept:
        plan, reads = k.plan, k.inference.reads
        ends = [0, *(step.reads for step in plan.steps)]
        needed = [sum(r.nbytes for r in plan.reads[a:b]) for a, b in pairwise(ends)]
        changes = [(read.end, read.nbytes) for read in reads]
        changes += [(event.end, -needed[event.step]) for event in k.inference.steps]
        if before is None or before.number + 1 != k.number or before.plan is not plan:
            # What was read before the record began, for the inference that is executed.
            filled = plan.streamed_bytes - sum(r.nbytes for r in reads if r.ahead == 0)
            start = min([k.inference.start, *(time for time, _ in changes)])
            changes.append((start, 0))
            yield count("budget", start, plan.budget_bytes)
            yield count("ring size", start, plan.ring_bytes)
        for time, nbytes in sorted(changes):
            filled += nbytes
            yield count("ring filled", time, filled)
            in_use = plan.planned_bytes - plan.ring_bytes + filled
            yield count("memory in use", time, in_use)
        before = k


def _event(phase: str, pid: int, tid: int, name: str, **fields: Any) -> TraceEvent:
    return {"name": name, "ph": phase, "pid": pid, "tid": tid, **fields}


def _us(time: float) -> int:
    return round(time * 1e6)
