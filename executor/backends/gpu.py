"""Base of the backends on a GPU: two streams, events for marks, memory of the device."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from swapnet.errors import BackendError
from swapnet.executor.backends.base import Memory
from swapnet.executor.gpu.accelerator import Accelerator, MemoryKind, describe
from swapnet.executor.gpu.clock import Clock, GpuMark
from swapnet.executor.gpu.memory import GpuArena
from swapnet.executor.gpu.staging import StagedLoader
from swapnet.executor.planning.plan import Plan, Step
from swapnet.executor.planning.usage import gpu_staging_bytes
from swapnet.executor.swapping.loading import BeforeRead, DirectLoader, Loader, Reader
from swapnet.executor.swapping.moments import Mark
from swapnet.manifest import EXTENT_ALIGNMENT, Manifest
from swapnet.tensors import Array

__all__ = ["GpuBackend"]


class GpuBackend:
    """Base of a backend on a GPU; see `Backend`."""

    is_asynchronous = True

    def __init__(self, manifest: Manifest, accelerator: Accelerator, kind: MemoryKind) -> None:
        self.manifest = manifest
        self.memory_kind = kind
        self._accelerator = accelerator
        self._compute = accelerator.stream()
        self._copies = accelerator.stream()
        self._clock = Clock(self._compute)
        moves = kind is MemoryKind.MANAGED and not accelerator.attributes.is_integrated
        self._is_direct = kind.is_host_visible and not moves
        """True where storage is read straight into weights: a discrete GPU moves managed pages."""

    @property
    def gpu(self) -> str:
        return describe(self._accelerator.attributes, self.memory_kind)

    def available_bytes(self) -> int:
        return self._accelerator.free_bytes()

    def arena(self, nbytes: int) -> GpuArena:
        stream = None if self._is_direct else self._copies
        return GpuArena(self._accelerator, self.memory_kind, nbytes, stream)

    def loader(
        self, storage: Reader, arena: Memory, plan: Plan, before_read: BeforeRead | None
    ) -> Loader:
        """A loader straight to the place where the host may write, else through staging memory."""
        assert isinstance(arena, GpuArena)
        if self._is_direct:
            return DirectLoader(storage, arena, before_read=before_read)
        staging = gpu_staging_bytes(self.manifest)
        largest = min(plan.request_bytes, max(staging // 2, EXTENT_ALIGNMENT))
        return StagedLoader(
            storage,
            arena,
            self._accelerator,
            self._copies,
            self._clock,
            largest_bytes=largest,
            slots=max(staging // largest, 1),
            before_read=before_read,
        )

    def array(self, value: Any) -> Array:
        array: Array = value
        return array

    def prepare_segments(self, steps: Sequence[Step]) -> None:
        pass

    def forget_segments(self) -> None:
        pass

    def follow(self, marks: Sequence[Mark]) -> None:
        """Let the compute stream wait for the copies' events; the host does not wait."""
        for mark in marks:
            if isinstance(mark, GpuMark):
                self._compute.wait(mark.event)

    def mark(self) -> GpuMark:
        return GpuMark(self._compute.record(), self._clock)

    def synchronize(self) -> None:
        """Wait for both streams, the second even where the first failed."""
        try:
            self._copies.synchronize()
        finally:
            self._compute.synchronize()

    def _settle(self) -> None:
        with suppress(BackendError):
            self.synchronize()

    def _begin(self) -> None:
        # Events are timed from the beginning of the inference, while the stream is idle.
        self._clock = Clock(self._compute)
