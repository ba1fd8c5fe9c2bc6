"""Time between inferences: a pause, or a camera's rate."""

from __future__ import annotations

import time

import msgspec

from swapnet.errors import InputError

__all__ = ["Pacer", "Pauses"]


class Pauses(msgspec.Struct, frozen=True):
    """Time between the inferences of a round.

    Attributes
    ----------
    idle_ms
        Pause before each inference.
    rate_hz
        Frames per second that inferences begin at; None to begin one after the other. A frame's
        deadline is the next frame.

    Raises
    ------
    InputError
        Both are given.
    """

    idle_ms: float = 0.0
    rate_hz: float | None = None

    def __post_init__(self) -> None:
        if self.idle_ms and self.rate_hz:
            raise InputError(
                "a pause and a rate do not go together",
                why=f"{self.idle_ms:g} ms and {self.rate_hz:g} Hz both set when inferences begin",
                hint="give one of --idle-time and --rate",
            )


class Pacer:
    """The pauses of one round."""

    def __init__(self, pauses: Pauses) -> None:
        self._pauses = pauses
        self._due = time.perf_counter()

    def wait(self) -> float:
        """Wait for the begin of the next inference; milliseconds that it took."""
        begun = time.perf_counter()
        rate_hz = self._pauses.rate_hz
        self._due = self._due + 1 / rate_hz if rate_hz else begun + self._pauses.idle_ms / 1e3
        if self._due <= begun:
            return 0.0
        time.sleep(self._due - begun)
        return (time.perf_counter() - begun) * 1e3

    def is_late(self) -> bool:
        """Whether the deadline of the latest frame has passed; False without a rate."""
        rate_hz = self._pauses.rate_hz
        return bool(rate_hz) and time.perf_counter() > self._due + 1 / (rate_hz or 1.0)
