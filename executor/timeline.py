"""What happens when: the executor's order of reads and steps, with delays instead of work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from swapnet.profile import Profile

if TYPE_CHECKING:
    from swapnet.executor.plan import Read, Step

__all__ = ["Timeline", "read_duration_ms", "simulate", "step_duration_ms"]

_LAPS = 4
"""Inferences until the cyclic prefetch has settled."""


@dataclass(frozen=True)
class Timeline:
    """Simulated inferences, one after the other without a pause.

    Attributes
    ----------
    ends_ms
        End of each inference.
    """

    ends_ms: tuple[float, ...]

    @property
    def first_ms(self) -> float:
        """Latency of the first inference."""
        return self.ends_ms[0]

    @property
    def steady_ms(self) -> float:
        """Latency once prefetching has settled."""
        return self.ends_ms[-1] - self.ends_ms[-2]


def simulate(steps: Sequence[Step], reads: Sequence[Read], profile: Profile) -> Timeline:
    """Run a plan on a virtual clock.

    A read starts when the one before it has ended and the step that occupied its place has;
    a step starts when the one before it has ended and its reads have arrived.

    Parameters
    ----------
    steps, reads
        Of one inference.
    profile
        Delays.
    """
    read_ms = [read_duration_ms(read, profile) for read in reads]
    step_ms = [step_duration_ms(step, profile, reading=bool(reads)) for step in steps]
    before = [0.0] * len(steps)
    storage = compute = 0.0
    ends: list[float] = []
    for _ in range(_LAPS):
        now: list[float] = []
        next_read = 0
        for step, duration in zip(steps, step_ms, strict=True):
            while next_read < step.reads:
                after = reads[next_read].after
                free = now[after] if after >= 0 else before[after]
                storage = max(storage, free) + read_ms[next_read]
                next_read += 1
                arrival = storage
                compute = max(compute, arrival)
            compute += duration
            now.append(compute)
        before = now
        ends.append(compute)
    return Timeline(tuple(ends))


def read_duration_ms(read: Read, profile: Profile) -> float:
    """How long storage is occupied by a request while the model computes."""
    return read.nbytes / profile.busy_storage_bytes_per_s * 1e3


def step_duration_ms(step: Step, profile: Profile, *, reading: bool) -> float:
    """How long a step computes, while requests are in flight or not."""
    slowdown = profile.busy_slowdown if reading else 1.0
    return profile.step_ms + slowdown * sum(profile.block_ms[step.first : step.last + 1])
