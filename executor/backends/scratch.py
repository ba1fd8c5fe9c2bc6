"""The arena of ONNX Runtime's sessions: what is inside a segment, and scratch of its kernels."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import ClassVar

__all__ = ["Scratch"]

_LEAST_BYTES = 1 << 16


class Scratch:
    """Memory with a hard limit for all sessions that are made while it is in force.

    ONNX Runtime gives new sessions what was registered last with its process-wide environment. A
    session keeps the memory that it was made with, until it is forgotten.

    Parameters
    ----------
    limit_bytes
        Of all sessions together.

    Attributes
    ----------
    environment
        Held while an arena is registered and sessions are made with it.
    generation
        Counts arenas: sessions of an earlier one are not to be used beside those of this one.
    """

    environment: ClassVar[threading.RLock] = threading.RLock()
    _in_force: ClassVar[dict[str, Scratch]] = {}
    """By kind of memory."""

    def __init__(self, limit_bytes: int) -> None:
        self.generation = 0
        self._limit_bytes = max(limit_bytes, _LEAST_BYTES)

    @property
    def limit_bytes(self) -> int:
        """Of all sessions together."""
        return self._limit_bytes

    def resize(self, limit_bytes: int) -> None:
        """Change the limit; sessions that are there keep their arena until they are made anew."""
        with self.environment:
            self._limit_bytes = max(limit_bytes, _LEAST_BYTES)
            self.retire()

    def enforce(self, memory: str, register: Callable[[int], None]) -> None:
        """Make it what new sessions get; the caller holds `environment`.

        Parameters
        ----------
        memory
            Kind of memory: each has an arena of its own.
        register
            Registers an arena of so many bytes.
        """
        if self._in_force.get(memory) is not self:
            register(self._limit_bytes)
            self._in_force[memory] = self
            self.generation += 1

    def retire(self) -> None:
        """New sessions get it no more."""
        with self.environment:
            for memory in [m for m, scratch in self._in_force.items() if scratch is self]:
                del self._in_force[memory]

    @classmethod
    def forget_holder(cls) -> None:
        """In a forked child: whoever held `environment` is not there."""
        cls.environment = threading.RLock()


os.register_at_fork(after_in_child=Scratch.forget_holder)
