"""Time events of a GPU on the host's clock."""

from __future__ import annotations

import time
from dataclasses import dataclass

from swapnet.executor.gpu.accelerator import Event, Stream

__all__ = ["Clock", "GpuMark"]


class Clock:
    """A moment that host and GPU know; made while a stream is idle."""

    def __init__(self, stream: Stream) -> None:
        self._event = stream.record()
        self._event.synchronize()
        self._host_s = time.perf_counter()

    def seconds(self, event: Event) -> float:
        """Time of an event in seconds, on the clock of `time.perf_counter`."""
        return self._host_s + event.ms_since(self._event) / 1e3


@dataclass(frozen=True)
class GpuMark:
    """An event; see `Mark`."""

    event: Event
    clock: Clock

    @property
    def time(self) -> float:
        return self.clock.seconds(self.event)

    def wait(self) -> None:
        self.event.synchronize()
