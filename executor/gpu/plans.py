"""Load serialized engines: read to the host as a whole, then made in their place."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from swapnet.errors import BackendError
from swapnet.executor.gpu.accelerator import Accelerator, Buffer, MemoryKind, Stream
from swapnet.executor.gpu.memory import GpuArena
from swapnet.executor.planning.plan import Place, Read
from swapnet.executor.planning.usage import PLANS_AT_ONCE
from swapnet.executor.swapping.loading import BeforeRead, Loader, Reader
from swapnet.executor.swapping.moments import Mark, Passed
from swapnet.manifest import Manifest

__all__ = ["LoadPlan", "PlanLoader"]

LoadPlan = Callable[[int, memoryview, int, int], Mark]
"""Makes the engine of a block from its plan, with the weights at an address, within a size."""


@dataclass
class _Arriving:
    """A plan that has been read in part."""

    buffer: Buffer
    missing_bytes: int
    reads: list[Read] = field(default_factory=list)
    after: list[Mark] = field(default_factory=list)


class PlanLoader:
    """Loads blocks with embedded weights; leaves the others to another loader. See `Loader`.

    The last request of a plan makes its engine, in the reading thread. The engines that lay in the
    place have ended by then, and are unloaded first.

    Parameters
    ----------
    inner
        Loader of blocks with external weights.
    manifest, places
        The engine, and the places of its blocks.
    load_plan, unload
        Make the engine of a block, and forget it.
    storage, arena
        Source and destination.
    accelerator, stream
        GPU with page-locked memory for plans, and the stream on which places are overwritten.
    before_read
        See `BeforeRead`.
    """

    def __init__(
        self,
        inner: Loader,
        manifest: Manifest,
        places: Sequence[Place],
        load_plan: LoadPlan,
        unload: Callable[[int], None],
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
        self._load_plan = load_plan
        self._unload = unload
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
        """Load one request; only the last one of a plan has a mark to wait for."""
        extent = self._blocks[read.block].extent
        is_own = extent.offset <= read.file_offset < extent.end
        if not is_own or self._blocks[read.block].weight_style == "external":
            return self._inner.load(read, after)
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
        with self._changed:
            self._buffers += [arriving.buffer for arriving in self._arriving.values()]
            self._arriving.clear()
            self._failure = None
        self._inner.reset()

    def close(self) -> None:
        self.reset()
        for block in self._loaded:
            with suppress(BackendError):
                self._unload(block)
        for buffer in self._buffers:
            buffer.free()
        self._loaded, self._buffers = [], []
        self._inner.close()

    def _of(self, block: int) -> _Arriving:
        """The arriving plan of a block; its first request waits for host memory.

        All requests of a plan begin before those of the next one, so plans with memory get on.
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
            self._unload(other)
        if self._before_read is not None:
            for read in arriving.reads:
                self._before_read(read)
            self._stream.synchronize()
        plan = arriving.buffer.view(0, self._blocks[block].plan_nbytes)
        nbytes = self._blocks[block].extent.nbytes  # shared weights lie behind it
        return self._load_plan(block, plan, self._arena.address + place.offset, nbytes)


def _overlap(one: Place, other: Place) -> bool:
    return one.offset < other.offset + other.nbytes and other.offset < one.offset + one.nbytes
