"""The record of one inference, and of one round of them."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Any, Literal

import msgspec

from swapnet.executor.execution import Inference

__all__ = ["Opening", "Round", "Timing"]


class Timing(msgspec.Struct, frozen=True):
    """Times of one inference, in milliseconds. Sides that are not ours have only ``latency_ms``.

    Attributes
    ----------
    latency_ms
        Time from checked inputs to outputs.
    start_ms
        Its begin, counted from the start of the worker.
    input_ms
        Part before the first step: inputs are brought to where kernels read them.
    compute_ms
        From the begin of the first step's wait to the end of the last step; waits are in it.
    output_ms
        Part after the last step: outputs are brought from where kernels wrote them.
    stall_ms
        Part of ``compute_ms`` that was spent waiting for bytes.
    enqueue_ms
        Time of the host from the begin of the first step until the last one was launched. On the
        CPU a launch returns when the step is done, so this equals ``compute_ms``.
    read_bytes
        Bytes read from storage for this inference, in advance or not.
    reading_ms
        Time with a request to storage in flight, since the end of the inference before.
    idle_ms
        Pause before it.
    ahead_bytes
        Bytes read from storage in that pause.
    is_late
        Whether it ended after its deadline, where there is a rate.
    steps_ms, waits_ms
        Execution time of each step, and the wait for its bytes before it.
    """

    latency_ms: float
    start_ms: float = 0.0
    input_ms: float = 0.0
    compute_ms: float = 0.0
    output_ms: float = 0.0
    stall_ms: float = 0.0
    enqueue_ms: float = 0.0
    read_bytes: int = 0
    reading_ms: float = 0.0
    idle_ms: float = 0.0
    ahead_bytes: int = 0
    is_late: bool = False
    steps_ms: tuple[float, ...] = ()
    waits_ms: tuple[float, ...] = ()

    @classmethod
    def of(cls, inference: Inference, origin: float, **around: Any) -> Timing:
        """The times of an inference, and attributes of what was ``around`` it.

        ``origin`` is that of ``start_ms``, in seconds.
        """
        first, last = inference.steps[0], inference.steps[-1]
        end = inference.start + inference.latency_ms / 1e3
        # The host of a GPU has launched the last step before the device has executed it.
        after_ms = max((end - last.end) * 1e3, 0.0)
        return cls(
            latency_ms=inference.latency_ms,
            start_ms=(inference.start - origin) * 1e3,
            input_ms=inference.input_ms,
            compute_ms=(last.end - first.wait) * 1e3,
            output_ms=min(inference.output_ms, after_ms),
            stall_ms=inference.stall_ms,
            enqueue_ms=inference.latency_ms - inference.input_ms - inference.output_ms,
            read_bytes=inference.read_bytes,
            steps_ms=tuple((step.end - step.start) * 1e3 for step in inference.steps),
            waits_ms=tuple((step.start - step.wait) * 1e3 for step in inference.steps),
            **around,
        )


class Opening(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Opening of an engine and its first inference, in milliseconds.

    Attributes
    ----------
    open_ms
        Time that opening took, without the import of the runtime library. The other parts of it
        are below; the rest goes to memory and the backend.
    sessions_ms
        Making sessions of all steps and binding them to memory.
    read_ms, read_bytes
        Reading resident weights.
    plan_ms
        Search of the plan.
    packing_bytes, transient_bytes
        Attributes of `Packing`: what sessions with windows read, and the most memory for it.
    first_ms
        Latency of the first inference, at once after opening.
    cache
        ``"warm"`` where the page cache held most of the weights when the engine was opened.
    """

    open_ms: float
    sessions_ms: float
    read_ms: float
    read_bytes: int
    plan_ms: float
    packing_bytes: int
    transient_bytes: int
    first_ms: float
    cache: Literal["cold", "warm"]


class Round(msgspec.Struct, frozen=True):
    """Measurements of one round of inferences.

    Attributes
    ----------
    timings
        Counted inferences, in order. The resident side's latency has execution and reading side
        by side.
    idle_ms
        Execution times of the resident side with nothing else running.
    storage_bytes_per_s
        Bandwidth of the resident side's reader with nothing else running.
    """

    timings: tuple[Timing, ...]
    idle_ms: tuple[float, ...] = ()
    storage_bytes_per_s: float = 0.0

    @classmethod
    def of(
        cls,
        latency_ms: Sequence[float],
        *,
        idle_ms: Sequence[float] = (),
        storage_bytes_per_s: float = 0.0,
    ) -> Round:
        """A round of which only latencies are known."""
        return cls(tuple(map(Timing, latency_ms)), tuple(idle_ms), storage_bytes_per_s)

    @property
    def latency_ms(self) -> list[float]:
        """Latency of each inference."""
        return [timing.latency_ms for timing in self.timings]

    @property
    def median_ms(self) -> float:
        """Median of the latencies."""
        return median(self.latency_ms)

    @property
    def taken_ms(self) -> float:
        """Time of the counted inferences, with the pauses between them."""
        return sum(timing.idle_ms + timing.latency_ms for timing in self.timings)

    @property
    def read_bytes(self) -> int:
        """Bytes read from storage for all counted inferences together."""
        return sum(timing.read_bytes for timing in self.timings)
