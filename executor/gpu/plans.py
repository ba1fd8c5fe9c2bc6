"""Serialized engines on their way: read to the host as a whole, then loaded into their place."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol

from swapnet.errors import BackendError
from swapnet.executor.gpu.accelerator import Accelerator, Buffer, MemoryKind, Stream
from swapnet.executor.gpu.memory import GpuArena
from swapnet.executor.planning.plan import Place, Read
from swapnet.executor.planning.usage import PLANS_AT_ONCE
from swapnet.executor.swapping.loading import BeforeRead, Loader, Reader
from swapnet.executor.swapping.moments import Mark, Passed
from swapnet.manifest import Manifest

__all__ = ["PlanLoader", "Plans"]


class Plans(Protocol):
    """Who makes engines of plans."""

    def load(self, block: int, plan: memoryview, address: int, nbytes: int) -> Mark:
        """Make the engine of a block, its weights in a place of the arena.

        Raises
        ------
        BackendError
            The library refuses the plan, or the place is too small.
        """

    def unload(self, block: int) -> None:
        """Forget the engine of a block, which nothing executes any more."""


@dataclass
class _Arriving:
    """A plan of which some requests have been read."""

    buffer: Buffer
    missing_bytes: int
    reads: list[Read] = field(default_factory=list)
    after: list[Mark] = field(default_factory=list)


class PlanLoader:
    """Loads blocks with embedded weights; leaves the others to another loader. See `Loader`.

    The last request of a plan makes its engine, in the reading thread: what lay in the place has
    ended by then, and is forgotten first.

    Parameters
    ----------
    inner
        For blocks whose weights are inputs.
    manifest, places
        The engine, and where its blocks lie.
    plans
        Makes engines.
    storage, arena
        From where to where.
    accelerator, stream
        Whose page-locked memory plans are read to, and the stream on which places are overwritten.
    before_read
        See `BeforeRead`.
    """

    def __init__(
        self,
        inner: Loader,
        manifest: Manifest,
        places: Sequence[Place],
        plans: Plans,
        storage: Reader,
        arena: GpuArena,
        accelerator: Accelerator,
        stream: Stream,
        *,
        before_read: BeforeRead | None = None,
    ) -> None:
        self._inner = inner
        self._blocks = manifest.blocks
        self._places = places
        self._plans = plans
        self._storage = storage
        self._arena = arena
        self._stream = stream
        self._before_read = before_read
        self._changed = threading.Condition()
        self._arriving: dict[int, _Arriving] = {}
        self._loaded: list[int] = []
        self._failure: BaseException | None = None
        largest = max(b.extent.nbytes for b in self._blocks if b.weight_style == "embedded")
        self._buffers = [
            accelerator.allocate(MemoryKind.PINNED, largest) for _ in range(PLANS_AT_ONCE)
        ]

    @property
    def largest_bytes(self) -> int:
        return self._inner.largest_bytes

    def load(self, read: Read, after: Mark | None) -> Mark:
        """See `Loader.load`; only the last request of a plan gives a moment to wait for."""
        if read.block < 0 or self._blocks[read.block].weight_style == "external":
            return self._inner.load(read, after)
        extent = self._blocks[read.block].extent
        arriving = self._of(read.block)
        try:
            view = arriving.buffer.view(read.file_offset - extent.offset, read.nbytes)
            self._storage.read_into(view, read.file_offset)
            with self._changed:
                arriving.missing_bytes -= read.nbytes
                arriving.reads.append(read)
                if after is not None:
                    arriving.after.append(after)
                if arriving.missing_bytes:
                    return Passed()
            mark = self._make(read.block, arriving)
        except BaseException as error:
            # The memory stays with the plan: other requests may still read to it.
            with self._changed:
                self._failure = self._failure or error
                self._changed.notify_all()
            raise
        with self._changed:
            del self._arriving[read.block]
            self._buffers.append(arriving.buffer)
            self._changed.notify_all()
        return mark

    def reset(self) -> None:
        """See `Loader.reset`: plans that arrived in part are read again."""
        with self._changed:
            self._buffers += [arriving.buffer for arriving in self._arriving.values()]
            self._arriving.clear()
            self._failure = None
        self._inner.reset()

    def close(self) -> None:
        self.reset()
        for block in self._loaded:
            with suppress(BackendError):
                self._plans.unload(block)
        for buffer in self._buffers:
            buffer.free()
        self._loaded, self._buffers = [], []
        self._inner.close()

    def _of(self, block: int) -> _Arriving:
        """The plan that is arriving; its first request waits for memory to read it to.

        All requests of a plan begin before any of the next one, so who holds memory gets on.
        """
        with self._changed:
            while block not in self._arriving:
                if self._failure is not None:
                    raise BackendError(
                        f"block {block} is not loaded any more",
                        why="; ".join(str(self._failure).splitlines()),
                        hint="an earlier block failed",
                    ) from self._failure
                if self._buffers:
                    nbytes = self._blocks[block].extent.nbytes
                    self._arriving[block] = _Arriving(self._buffers.pop(), nbytes)
                else:
                    self._changed.wait()
            return self._arriving[block]

    def _make(self, block: int, arriving: _Arriving) -> Mark:
        for mark in arriving.after:
            mark.wait()
        place = self._places[block]
        with self._changed:
            over = [o for o in self._loaded if o == block or _overlap(self._places[o], place)]
            self._loaded = [o for o in self._loaded if o not in over] + [block]
        for other in over:
            self._plans.unload(other)
        if self._before_read is not None:
            for read in arriving.reads:
                self._before_read(read)
            self._stream.synchronize()
        plan = arriving.buffer.view(0, self._blocks[block].plan_nbytes)
        return self._plans.load(block, plan, self._arena.address + place.offset, place.nbytes)


def _overlap(one: Place, other: Place) -> bool:
    return one.offset < other.offset + other.nbytes and other.offset < one.offset + one.nbytes
