"""ONNX Runtime's arena: memory for values inside a step and for its kernels."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import ClassVar

__all__ = ["Scratch", "release_frames"]

_LEAST_BYTES = 1 << 16


class Scratch:
    """Memory with a hard limit for all sessions that are made while it is in force.

    ONNX Runtime gives new sessions what was registered last with its process-wide environment. A
    session keeps the memory that it was made with, until it is forgotten.

    Attributes
    ----------
    environment
        Lock that is held while an arena is registered and sessions are made with it.
    generation
        Number of arenas until now. Sessions of an earlier arena must not be used beside those of
        the latest.
    """

    environment: ClassVar[threading.RLock] = threading.RLock()
    _in_force: ClassVar[dict[str, Scratch]] = {}
    """The scratch memory of new sessions, by kind of memory."""

    def __init__(self, limit_bytes: int) -> None:
        self.generation = 0
        self._limit_bytes = max(limit_bytes, _LEAST_BYTES)

    @property
    def limit_bytes(self) -> int:
        """Upper limit for all sessions together."""
        return self._limit_bytes

    def fits(self, limit_bytes: int) -> bool:
        """Whether `resize` to this limit would change nothing."""
        return self._limit_bytes == max(limit_bytes, _LEAST_BYTES)

    def resize(self, limit_bytes: int) -> None:
        """Change the limit; existing sessions keep their arena until they are made again."""
        with self.environment:
            self._limit_bytes = max(limit_bytes, _LEAST_BYTES)
            self.retire()

    def enforce(self, memory: str, register: Callable[[int], None]) -> None:
        """Give this memory to new sessions; the caller holds `environment`.

        Parameters
        ----------
        memory
            Kind of memory: each has its own arena.
        register
            Registers an arena with a limit in bytes.
        """
        if self._in_force.get(memory) is not self:
            register(self._limit_bytes)
            self._in_force[memory] = self
            self.generation += 1

    def retire(self) -> None:
        """Give this memory to no new session."""
        with self.environment:
            for memory in [m for m, scratch in self._in_force.items() if scratch is self]:
                del self._in_force[memory]

    @classmethod
    def forget_holder(cls) -> None:
        """In a forked child: whoever held `environment` is not there."""
        cls.environment = threading.RLock()


def release_frames(error: BaseException) -> None:
    """Forget the calls that an error came through: they hold sessions, and these their arena."""
    error.__traceback__ = error.__cause__ = error.__context__ = None


os.register_at_fork(after_in_child=Scratch.forget_holder)
