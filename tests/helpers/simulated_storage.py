"""Storage of simulated engines: it fails where it is told to, and can be timed on a virtual clock.

`VirtualClock` gives each request and each block its duration, and refuses a request that comes too
early.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

from swapnet.errors import StorageError
from swapnet.executor.planning.plan import Plan, Step
from swapnet.manifest import Manifest
from swapnet.profile import Profile
from swapnet.testing.engine import block_byte

__all__ = ["SimulatedStorage", "VirtualClock"]


class VirtualClock:
    """Times requests and steps of one plan on two lanes, storage and compute, by a profile."""

    def __init__(self, plan: Plan, profile: Profile) -> None:
        self._plan = plan
        self._profile = profile
        self._lock = threading.Lock()
        self._number = {read.file_offset: n for n, read in enumerate(plan.reads)}
        self._laps = dict.fromkeys(self._number, 0)
        self._arrivals: dict[int, float] = {}
        self._step_ends: list[float] = []

    def inference_ends_ms(self) -> tuple[float, ...]:
        """End of every inference executed so far."""
        return tuple(self._step_ends[len(self._plan.steps) - 1 :: len(self._plan.steps)])

    def request(self, file_offset: int) -> None:
        """Start a request.

        Raises
        ------
        StorageError
            The step that uses its place has not ended.
        """
        with self._lock:
            lap = self._laps[file_offset]
            self._laps[file_offset] += 1
            index = self._number[file_offset]
            after = lap * len(self._plan.steps) + self._plan.reads[index].after
            if after >= len(self._step_ends):
                raise StorageError(
                    f"request {index} of inference {lap} came too early",
                    why=f"step {after} has not ended, {len(self._step_ends)} have",
                    hint="the pipeline is wrong",
                )
            self._arrivals[lap * len(self._plan.reads) + index] = (
                self._step_ends[after] if after >= 0 else 0.0
            )

    def step(self, step: Step) -> None:
        """Execute a step."""
        lap = len(self._step_ends) // len(self._plan.steps)
        with self._lock:
            storage = 0.0
            bytes_per_ms = self._profile.storage.bytes_per_s / 1e3
            for number in range(lap * len(self._plan.reads) + step.reads):
                read = self._plan.reads[number % len(self._plan.reads)]
                free = self._arrivals[number]
                storage = max(storage, free) + read.nbytes / bytes_per_ms
            before = self._step_ends[-1] if self._step_ends else 0.0
            blocks = self._profile.blocks[step.first : step.last + 1]
            duration = self._profile.step_ms + sum(block.idle_ms for block in blocks)
            self._step_ends.append(max(before, storage) + duration)


class SimulatedStorage:
    """Reads simulated weights on a virtual clock, and fails where it is told to.

    Parameters
    ----------
    manifest
        A simulated engine.
    clock
        Called with each request.
    failing
        Numbers of the requests that fail, counted over the storage's life.
    """

    def __init__(
        self,
        manifest: Manifest,
        clock: VirtualClock | None = None,
        failing: Sequence[int] = (),
    ) -> None:
        self._manifest = manifest
        self._clock = clock
        self._failing = set(failing)
        self._lock = threading.Lock()
        self.requests = 0

    def read_into(self, destination: memoryview, offset: int) -> None:
        """Fill with the byte of the block that lies at ``offset``."""
        with self._lock:
            number = self.requests
            self.requests += 1
        if number in self._failing:
            raise StorageError("simulated", why=f"request {number} fails", hint="")
        if self._clock is not None:
            self._clock.request(offset)
        block = next(b for b in self._manifest.blocks if b.extent.offset <= offset < b.extent.end)
        destination[:] = bytes([block_byte(block.index)]) * len(destination)
