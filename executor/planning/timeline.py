"""Simulate the executor's order of reads and steps, with delays instead of work."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate

from swapnet.executor.planning.plan import Read, Step
from swapnet.executor.planning.schedule import Schedule
from swapnet.profile import Profile
from swapnet.strips import Striped

__all__ = ["Delays", "Timeline", "predict", "simulate"]

_EXPANDED_BYTES_PER_S = 8e9
"""Speed at which a reader undoes a codec, in bytes of memory: 11 to 21 GB/s beside nothing else, on
an AMD EPYC. Processors that are slower have slower storage."""

_MOST_LAPS = 6
"""Upper limit of simulated inferences until the cyclic prefetch has settled."""


@dataclass(frozen=True)
class Timeline:
    """An inference among others without a pause between them, once prefetching has settled.

    Attributes
    ----------
    steady_ms
        Its latency.
    stalls_ms
        Wait of each step for its bytes.
    """

    steady_ms: float
    stalls_ms: tuple[float, ...]


class Delays(dict[tuple[int, int], tuple[float, float, float]]):
    """A profile in a form that is quick to simulate many plans with: `step` by first, last block.

    ``coded`` is the share of bytes in memory that are stored in half as many, and expanded. A run
    in ``strips`` takes the time of the rows that it computes, and a call for each strip; apart, a
    block takes that of one strip.
    """

    def __init__(
        self, profile: Profile, coded: float = 0.0, strips: Iterable[Striped] = ()
    ) -> None:
        storage = profile.storage
        self._step_ms = profile.step_ms
        idle_ms = [block.idle_ms for block in profile.blocks]
        busy_ms = [block.busy_ms for block in profile.blocks]
        for run in dict.fromkeys(strips):
            for times in (idle_ms, busy_ms):
                for block in range(run.first, run.last + 1):
                    times[block] *= run.work / (run.count if run.apart else 1)
                times[run.first] += 0 if run.apart else (run.count - 1) * profile.step_ms
        self._idle_ms = [0.0, *accumulate(idle_ms)]
        self._busy_ms = [0.0, *accumulate(busy_ms)]
        self.ms_per_byte = 1e3 / storage.bytes_per_s * (1 - coded / 2)
        self.ms_per_byte += 1e3 / _EXPANDED_BYTES_PER_S * coded
        self.latency_ms = storage.latency_ms
        self.wake_ms = storage.wake_ms
        self.reading = min(storage.busy_bytes_per_s / storage.bytes_per_s, 1.0)

    def step(self, first: int, last: int) -> tuple[float, float, float]:
        """Milliseconds of a step alone, those while reading, and bytes that are read meanwhile."""
        return self[first, last]

    def __missing__(self, span: tuple[int, int]) -> tuple[float, float, float]:
        first, last = span
        alone = self._step_ms + self._idle_ms[last + 1] - self._idle_ms[first]
        busy = self._step_ms + self._busy_ms[last + 1] - self._busy_ms[first]
        busy = max(alone, busy)
        found = self[span] = alone, busy, busy * self.reading / self.ms_per_byte
        return found


def simulate(order: Schedule, delays: Delays) -> Timeline:
    """Run a schedule on a virtual clock until prefetching has settled.

    Storage reads byte after byte; each waits for the step that occupied its place. A step starts
    when the step before it has ended and its bytes have arrived. A thread that waited for them has
    to wake up, while storage reads on. While storage and processor are both at work, each is
    slower, as measured.

    Parameters
    ----------
    order
        Its steps, and the bytes that they need and allow; places are not used.
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
    # ``read`` counts bytes since the first one of the inference, of which ``lead`` were read during
    # the inference before. Where an inference ends with the same lead for the next one, all later
    # ones are like it. The first has the largest lead that is possible, which mostly stays. Where
    # the second still loses some of it, the third begins with none. Storage has to be asked again,
    # with its latency, only after it was idle: a latency is a debt in bytes. Meanwhile the bytes up
    # to ``there`` have arrived.
    steps = [*map(delays.__getitem__, order.spans)]
    lap_bytes = order.lap_bytes
    ms_per_byte = delays.ms_per_byte
    debt_bytes = delays.latency_ms / ms_per_byte
    wake_ms, wake_bytes = delays.wake_ms, delays.wake_ms / ms_per_byte
    lead: float = order.allowed[-1] - lap_bytes
    is_idle, there = True, lead
    for lap in range(_MOST_LAPS):
        before = lead, is_idle
        now, read = 0.0, lead
        stalls: list[float] = []
        turns = zip(steps, order.needed, order.allowed, strict=True)
        for (alone_ms, busy_ms, busy_bytes), need, limit in turns:
            if is_idle and read < limit:
                there = read
                read -= debt_bytes
                is_idle = False
            stall = 0.0
            if read < need > there:
                if need > limit:
                    raise ValueError(f"step {len(stalls)} waits for bytes that wait for it")
                stall = (need - read) * ms_per_byte + wake_ms
                now += stall
                read = min(need + wake_bytes, limit)
            stalls.append(stall)
            if busy_bytes <= limit - read:
                now += busy_ms
                read += busy_bytes
            else:
                beside = (limit - read) / busy_bytes
                now += busy_ms * beside + alone_ms * (1 - beside)
                read = limit
                is_idle = True
        lead = read - lap_bytes
        there -= lap_bytes
        if is_idle == before[1] and abs(lead - before[0]) < 1:
            break
        if lap == 1 and lead < before[0]:
            lead, there, is_idle = 0.0, 0.0, False
    return Timeline(now, tuple(stalls))


def predict(steps: Sequence[Step], reads: Sequence[Read], profile: Profile) -> Timeline:
    """Run a plan's steps and reads on a virtual clock; see `simulate`."""
    expansion = profile.storage.bytes_per_s / _EXPANDED_BYTES_PER_S
    costs = [r.stored_bytes + round(2 * (r.nbytes - r.stored_bytes) * expansion) for r in reads]
    ends = [0, *accumulate((*costs, *costs))]
    afters = [read.after + lap for lap in (0, len(steps)) for read in reads]
    begun_after = list(accumulate(afters, max))
    order = Schedule(
        placed=[],
        spans=[(step.first, step.last) for step in steps],
        needed=[ends[step.reads] for step in steps],
        allowed=[ends[bisect_left(begun_after, step)] for step in range(len(steps))],
        lap_bytes=ends[len(reads)],
    )
    strips = [step.strips for step in steps if step.strips is not None]
    return simulate(order, Delays(profile, strips=strips))
