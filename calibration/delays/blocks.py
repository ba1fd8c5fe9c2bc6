"""Block times as they are inside an inference, and the bandwidth beside them."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median, quantiles
from typing import Any

from swapnet.calibration.delays.requests import Interval, Pair, RequestMeter
from swapnet.executor.executor import SwapExecutor
from swapnet.executor.planning.plan import PlanOptions
from swapnet.executor.probing.reader import BackgroundReader, flow
from swapnet.profile import BlockTime, Storage
from swapnet.progress import Progress

__all__ = [
    "APART",
    "MERGED",
    "Round",
    "Sides",
    "alone",
    "block_times",
    "infer",
    "intervals",
    "measure_rounds",
    "storage_of",
]

MERGED = PlanOptions(strips=False)
APART = PlanOptions(merge=False, strips=False)
"""A step for each block."""

_FEWEST_ROUNDS, _MOST_ROUNDS = 3, 25
_ENOUGH_S = 2.0
"""After this time the fewest rounds are enough."""

_LEAST_STEP_MS = 0.01
"""Noise must not make a call free: fewer calls are better where all else is equal."""

_LONG_MS = 300.0
_LEAST_MS = 40.0
_MOST_INFERENCES = 10
"""Shortest duration and largest number of the inferences of one round."""


@dataclass(frozen=True)
class Sides:
    """Executors and readers that are measured in turn.

    ``merged`` has as few steps as possible, ``apart`` one for each block; ``request_bytes`` is the
    size of a single request: a small one, of which storage's own noise is a small part.
    """

    merged: SwapExecutor
    apart: SwapExecutor
    reader: BackgroundReader
    meter: RequestMeter
    request_bytes: int
    inputs: Mapping[str, Any]

    @property
    def calls(self) -> int:
        """Number of calls that the steps apart take more."""
        return len(self.apart.plan.steps) - len(self.merged.plan.steps)


@dataclass(frozen=True)
class Round:
    """All figures once, measured in turn; block times include the cost of a call."""

    merged_ms: float
    block_ms: tuple[tuple[float, ...], ...]
    """By inference and block."""
    busy_block_ms: tuple[tuple[float, ...], ...]
    """The same, while the reader reads."""
    bytes_per_s: float
    busy_bytes_per_s: float
    """Both 0 where too little was read."""
    latency_ms: float
    """Time of a request after a pause, beyond its share of the bandwidth."""
    wake_ms: float = 0.0
    """Time from its end until the thread that waits for it goes on."""


def infer(executor: SwapExecutor, inputs: Mapping[str, Any]) -> tuple[float, ...]:
    """Milliseconds of each step of one inference; together its latency without waiting.

    A step counts from the end of the one before it, so that the time between belongs to it; the
    first one has the time around all steps.
    """
    executor(inputs)
    last = executor.stats.last
    assert last is not None
    steps = last.steps
    starts = [steps[0].wait, *(step.end for step in steps[:-1])]
    took = [
        (step.end - start - (step.start - step.wait)) * 1e3
        for step, start in zip(steps, starts, strict=True)
    ]
    around = last.latency_ms - (steps[-1].end - steps[0].wait) * 1e3
    return (took[0] + max(around, 0.0), *took[1:])


def alone(executor: SwapExecutor, inputs: Mapping[str, Any]) -> tuple[float, ...]:
    """Milliseconds of each step, warm: medians of three inferences, or a single long one."""
    infer(executor, inputs)
    taken = [infer(executor, inputs)]
    if sum(taken[0]) < _LONG_MS:
        taken += [infer(executor, inputs) for _ in range(2)]
    return tuple(median(times) for times in zip(*taken, strict=True))


def intervals(
    executor: SwapExecutor, inputs: Mapping[str, Any], alone_ms: Sequence[float]
) -> list[Interval]:
    """Run one inference; when each step ran, and its duration while nothing is read."""
    executor(inputs)
    last = executor.stats.last
    assert last is not None
    return [
        Interval(event.wait, event.end, alone / 1e3)
        for event, alone in zip(last.steps, alone_ms, strict=True)
    ]


def measure_rounds(sides: Sides, progress: Progress) -> list[Round]:
    """A warm-up, then at least three rounds, until the time is used."""
    infer(sides.merged, sides.inputs)
    once_ms = sum(infer(sides.apart, sides.inputs))
    count = max(1, min(_MOST_INFERENCES, round(_LEAST_MS / max(once_ms, 0.01))))
    rounds: list[Round] = []
    started = time.perf_counter()
    while len(rounds) < _FEWEST_ROUNDS or (
        len(rounds) < _MOST_ROUNDS and time.perf_counter() - started < _ENOUGH_S
    ):
        progress("blocks", len(rounds), _MOST_ROUNDS)
        rounds.append(_round(sides, count))
    return rounds


def _round(sides: Sides, count: int) -> Round:
    def several(executor: SwapExecutor) -> tuple[tuple[float, ...], ...]:
        return tuple(infer(executor, sides.inputs) for _ in range(count))

    merged = several(sides.merged)
    apart = several(sides.apart)
    reader = sides.reader
    idle = reader.flow(_LEAST_MS / 1e3)
    latency = wake = 0.0
    if idle:
        latency, wake = sides.meter.round_trip(sides.request_bytes)
        latency -= sides.request_bytes / idle * 1e3
    with reader.reading():
        busy = several(sides.apart)
        ends = reader.ends[:]
    return Round(median(map(sum, merged)), apart, busy, idle, flow(ends), latency, wake)


def block_times(rounds: Sequence[Round], calls: int) -> tuple[tuple[BlockTime, ...], float]:
    """Medians by block without the cost of a call, and that cost in milliseconds.

    ``calls`` is the number of calls that the blocks apart took more than merged.
    """
    extra = median(median(map(sum, r.block_ms)) - r.merged_ms for r in rounds)
    step_ms = max(extra / calls if calls else 0.0, _LEAST_STEP_MS)
    idle = zip(*(times for r in rounds for times in r.block_ms), strict=True)
    busy = zip(*(times for r in rounds for times in r.busy_block_ms), strict=True)
    return tuple(
        _block_time(alone, beside, step_ms) for alone, beside in zip(idle, busy, strict=True)
    ), step_ms


def _block_time(idle: Sequence[float], busy: Sequence[float], step_ms: float) -> BlockTime:
    middle = median(idle)
    first, _, third = quantiles(idle, n=4)
    idle_ms = max(middle - step_ms, 0.0)
    busy_ms = max(median(busy) - step_ms, idle_ms)
    return BlockTime(idle_ms, busy_ms, (third - first) / middle if middle else 0.0)


def storage_of(rounds: Sequence[Round], pair: Pair) -> Storage:
    """Storage with the chosen pair, as it was beside the blocks."""
    idle = [r.bytes_per_s for r in rounds if r.bytes_per_s]
    busy = [r.busy_bytes_per_s for r in rounds if r.busy_bytes_per_s]
    bytes_per_s = median(idle)
    return Storage(
        request_bytes=pair[0],
        readers=pair[1],
        latency_ms=max(median(r.latency_ms for r in rounds), 0.0),
        bytes_per_s=bytes_per_s,
        busy_bytes_per_s=min(median(busy or idle), bytes_per_s),
        wake_ms=median(r.wake_ms for r in rounds),
    )
