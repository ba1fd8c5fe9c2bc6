"""Simulate the executor's order of reads and steps, with delays instead of work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import inf

from swapnet.executor.planning.plan import Read, Step
from swapnet.profile import Profile

__all__ = ["Delays", "Timeline", "predict", "simulate"]

_MOST_LAPS = 6
"""Upper limit of simulated inferences until the cyclic prefetch has settled."""

_NOTHING_MS = 1e-9
"""Largest rest that rounding leaves of a flow or a step."""

_SETTLED = 1e-4
"""Relative difference of two latencies in a row, below which prefetching has settled."""


@dataclass(frozen=True)
class Timeline:
    """Simulated inferences, one after the other without a pause.

    Attributes
    ----------
    ends_ms
        End of each inference.
    stalls_ms
        Wait of each step for its bytes, in the last inference.
    """

    ends_ms: tuple[float, ...]
    stalls_ms: tuple[float, ...]

    @property
    def steady_ms(self) -> float:
        """Latency once prefetching has settled."""
        return self.ends_ms[-1] - self.ends_ms[-2] if len(self.ends_ms) > 1 else self.ends_ms[0]


class Delays:
    """A profile in a form that is quick to simulate many plans with."""

    def __init__(self, profile: Profile) -> None:
        storage = profile.storage
        self._step_ms = profile.step_ms
        self._idle_ms = [0.0, *accumulate(block.idle_ms for block in profile.blocks)]
        self._busy_ms = [0.0, *accumulate(block.busy_ms for block in profile.blocks)]
        self.ms_per_byte = 1e3 / storage.bytes_per_s
        self.latency_ms = storage.latency_ms
        self.reading = min(storage.busy_bytes_per_s / storage.bytes_per_s, 1.0)

    def step(self, first: int, last: int) -> tuple[float, float]:
        """Milliseconds of one step alone, and its speed while reading as a fraction of that."""
        idle = self._step_ms + self._idle_ms[last + 1] - self._idle_ms[first]
        busy = self._step_ms + self._busy_ms[last + 1] - self._busy_ms[first]
        return idle, idle / busy if busy > idle else 1.0


def simulate(
    spans: Sequence[tuple[int, int]],
    flows: Sequence[tuple[int, int]],
    needed: Sequence[int],
    delays: Delays,
) -> Timeline:
    """Run a schedule on a virtual clock.

    Storage serves flows in order. A flow starts when the flow before it and the step that occupied
    its place have ended. A step starts when the step before it has ended and its flows have
    arrived. While storage and processor are both at work, each is slower, as measured.

    Parameters
    ----------
    spans
        First and last block of each step.
    flows
        Bytes, and the step after which they may be read (see `Flow`), in order.
    needed
        Number of flows that must have arrived before each step starts.
    delays
        Execution and reading times.

    Raises
    ------
    ValueError
        A step waits for bytes that wait for it.

    Notes
    -----
    With equal delays alone and beside each other this is the recurrence of a two-stage pipeline
    with finite buffers (Demand Layering, RTSS'22, section IV). The two speeds are those of
    SwapNet's delay model (arXiv 2401.16757, section 5), extended by how much reading and computing
    slow each other down.
    """
    steps = [delays.step(first, last) for first, last in spans]
    return _run(
        [nbytes * delays.ms_per_byte for nbytes, _ in flows],
        [after for _, after in flows],
        needed,
        [alone for alone, _ in steps],
        [speed for _, speed in steps],
        delays.reading,
        delays.latency_ms,
    )


def predict(steps: Sequence[Step], reads: Sequence[Read], profile: Profile) -> Timeline:
    """Run a plan's steps and reads on a virtual clock; see `simulate`."""
    flows: list[tuple[int, int]] = []
    needed: list[int] = []
    position = 0
    for step in steps:
        started = len(flows)
        for read in reads[position : step.reads]:
            if len(flows) > started and flows[-1][1] == read.after:
                flows[-1] = (flows[-1][0] + read.nbytes, read.after)
            else:
                flows.append((read.nbytes, read.after))
        position = step.reads
        needed.append(len(flows))
    return simulate([(s.first, s.last) for s in steps], flows, needed, Delays(profile))


def _run(
    flow_ms: Sequence[float],
    afters: Sequence[int],
    needed: Sequence[int],
    step_ms: Sequence[float],
    computing: Sequence[float],
    reading: float,
    latency_ms: float,
) -> Timeline:
    """Go from event to event; ``computing`` and ``reading`` are speeds while both are at work."""
    # Each turn of the loop starts a flow and a step where they may start, then lets time pass until
    # the first of them ends. ``flow_left`` and ``step_left`` are their rests in milliseconds alone,
    # infinite where nothing runs. Where both run, each rest shrinks by the time that passed times
    # its speed. Steps are counted from the beginning of time: ``ended`` is above the number of a
    # step that has ended, and ``lap_of_flow`` is the first step of the inference that ``flow`` is
    # read for. Storage has to be asked again, with its latency, only after it was idle.
    count, per_lap = len(step_ms), len(flow_ms)
    now = asked = free_at = 0.0
    flow_left, step_left = inf, inf
    arrived = ended = 0
    ends: list[float] = []
    stalls = [0.0] * count
    lap = step = 0
    flow = lap_of_flow = 0
    while True:
        if flow_left == inf and per_lap and ended > lap_of_flow + afters[flow]:
            flow_left = flow_ms[flow] + (latency_ms if free_at < now else 0.0)
            flow += 1
            if flow == per_lap:
                flow = 0
                lap_of_flow += count
        if step_left == inf and arrived >= lap * per_lap + needed[step]:
            step_left = step_ms[step]
            stalls[step] = now - asked
        if flow_left == step_left == inf:
            raise ValueError(f"step {step} waits for bytes that wait for it")
        if flow_left == inf:
            now += step_left
            step_left = 0.0
        elif step_left == inf:
            now += flow_left
            flow_left = 0.0
        else:
            speed = computing[step]
            passed = min(flow_left / reading, step_left / speed)
            now += passed
            flow_left = max(flow_left - passed * reading, 0.0)
            step_left = max(step_left - passed * speed, 0.0)
        if flow_left <= _NOTHING_MS:
            flow_left = inf
            free_at = now
            arrived += 1
        if step_left <= _NOTHING_MS:
            step_left = inf
            ended += 1
            asked = now
            step += 1
            if step == count:
                step = 0
                lap += 1
                ends.append(now)
                if lap == _MOST_LAPS or _has_settled(ends) or not per_lap:
                    return Timeline(tuple(ends), tuple(stalls))


def _has_settled(ends: Sequence[float]) -> bool:
    if len(ends) < 3:
        return False
    last, before = ends[-1] - ends[-2], ends[-2] - ends[-3]
    return abs(last - before) <= _SETTLED * last
