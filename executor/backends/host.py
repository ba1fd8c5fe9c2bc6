"""Base of the backends on the host: memory is the process's, calls return when they are done."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from swapnet.executor.backends.base import Memory
from swapnet.executor.planning.plan import Plan, Step
from swapnet.executor.swapping.arena import Arena
from swapnet.executor.swapping.host_values import Values
from swapnet.executor.swapping.loading import BeforeRead, DirectLoader, Loader, Reader
from swapnet.executor.swapping.moments import Mark, Passed
from swapnet.machine import memory_bytes
from swapnet.manifest import Manifest
from swapnet.strips import Striping
from swapnet.tensors import Array

__all__ = ["HostBackend"]


class HostBackend:
    """Base of a backend on the host; see `Backend`."""

    is_asynchronous = False
    gpu = ""

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest

    def available_bytes(self) -> int:
        return memory_bytes()

    def arena(self, nbytes: int) -> Arena:
        # While windows are packed, they take memory that the arena has not taken yet.
        return Arena(nbytes, is_filled=not self.manifest.has_windows)

    def values(self, inside: Arena | None = None, striping: Striping | None = None) -> Values:
        return Values(self.manifest, self.array, inside, striping)

    def loader(
        self, storage: Reader, arena: Memory, plan: Plan, before_read: BeforeRead | None
    ) -> Loader:
        assert isinstance(arena, Arena)
        return DirectLoader(storage, arena, before_read=before_read)

    def prepare_segments(self, steps: Sequence[Step]) -> None:
        pass

    def forget_segments(self) -> None:
        pass

    def array(self, value: Any) -> Array:
        array: Array = value
        return array

    def follow(self, marks: Sequence[Mark]) -> None:
        pass

    def mark(self) -> Mark:
        return Passed()

    def synchronize(self) -> None:
        pass
