"""Counts of an executor since it was opened, whatever its budget was meanwhile."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field, replace
from typing import ClassVar

from swapnet.executor.execution import Execution, Inference

__all__ = ["Histogram", "Stats"]

_BOUNDS_MS = tuple(float(digit * 10**power) for power in range(5) for digit in (1, 2, 5))


@dataclass(frozen=True)
class Histogram:
    """Times, counted by fixed buckets.

    Attributes
    ----------
    bounds_ms
        Upper bounds of the buckets, themselves included: 1, 2, 5, 10 … 50,000 milliseconds.
    counts
        Times in each bucket; the last one has those above all bounds.
    sum_ms
        Sum of all times.
    """

    bounds_ms: ClassVar[tuple[float, ...]] = _BOUNDS_MS
    counts: tuple[int, ...] = (0,) * (len(_BOUNDS_MS) + 1)
    sum_ms: float = 0.0

    @property
    def count(self) -> int:
        """Number of times."""
        return sum(self.counts)

    def plus(self, time_ms: float) -> Histogram:
        """This histogram with one more time."""
        counts = list(self.counts)
        counts[bisect_left(self.bounds_ms, time_ms)] += 1
        return Histogram(tuple(counts), self.sum_ms + time_ms)


@dataclass(frozen=True)
class Stats:
    """Counts since the executor was opened; changes of the budget keep them.

    Attributes
    ----------
    inferences
        Inferences that gave outputs.
    failures
        Inferences that raised.
    refused
        Requests with inputs or output arrays that do not fit the model; they were not begun.
    read_bytes
        Bytes read from storage, with prefetching and looked-up rows, without resident blocks.
    reading_ms
        Time in which at least one of the requests for streamed blocks was under way.
    latency
        Latencies of the inferences.
    stall_ms, input_ms, output_ms
        Sums of these parts of the latency; see `Inference`.
    open_ms
        Time that opening took, the import of the runtime library included. Its parts follow; the
        rest goes to the manifest, the library and memory.
    open_plan_ms
        Part of it: the search of a plan.
    open_read_ms, open_read_bytes
        Part of it: waiting for resident weights, which are read while sessions are made, and their
        bytes.
    open_sessions_ms
        Part of it: making and binding sessions.
    last
        The latest inference; None before the first.
    """

    inferences: int = 0
    failures: int = 0
    refused: int = 0
    read_bytes: int = 0
    reading_ms: float = 0.0
    latency: Histogram = field(default_factory=Histogram)
    stall_ms: float = 0.0
    input_ms: float = 0.0
    output_ms: float = 0.0
    open_ms: float = 0.0
    open_plan_ms: float = 0.0
    open_read_ms: float = 0.0
    open_read_bytes: int = 0
    open_sessions_ms: float = 0.0
    last: Inference | None = None

    @property
    def overlap(self) -> float:
        """Share of the reading that did not hold up execution; 1 where nothing was read."""
        return max(0.0, 1 - self.stall_ms / self.reading_ms) if self.reading_ms else 1.0

    def opened(self, execution: Execution, *, open_ms: float, plan_ms: float) -> Stats:
        """These counts with the time that opening took."""
        return replace(
            self,
            open_ms=open_ms,
            open_plan_ms=plan_ms,
            open_read_ms=execution.load_ms,
            open_read_bytes=execution.loaded_bytes,
            open_sessions_ms=execution.sessions_ms,
        )

    def ended(self, inference: Inference) -> Stats:
        """These counts with one more inference."""
        return replace(
            self,
            inferences=self.inferences + 1,
            latency=self.latency.plus(inference.latency_ms),
            stall_ms=self.stall_ms + inference.stall_ms,
            input_ms=self.input_ms + inference.input_ms,
            output_ms=self.output_ms + inference.output_ms,
            last=inference,
        )

    def with_reads(self, execution: Execution) -> Stats:
        """These counts with what was read while a plan was in force."""
        return replace(
            self,
            read_bytes=self.read_bytes + execution.read_bytes,
            reading_ms=self.reading_ms + execution.reading_ms,
        )
