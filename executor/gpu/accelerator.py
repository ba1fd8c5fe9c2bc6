"""A GPU as the executor sees it: streams, events, and four kinds of memory.

`swapnet.executor.gpu.cuda` implements it with CUDA, `swapnet.testing.gpu` without a GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from swapnet.errors import BackendError, InputError

__all__ = [
    "Accelerator",
    "Attributes",
    "Buffer",
    "Event",
    "MemoryKind",
    "Stream",
    "choose_memory",
    "describe",
]


class MemoryKind(str, Enum):
    """Kinds of memory.

    ``DEVICE``: the GPU's own memory; the host copies to it. ``MANAGED``: one address for host and
    GPU, pages move to the side that touches them. ``MAPPED``: page-locked host memory that kernels
    read in place. ``PINNED``: page-locked host memory for copies; kernels do not see it.
    """

    DEVICE = "device"
    MANAGED = "managed"
    MAPPED = "mapped"
    PINNED = "pinned"

    @property
    def is_host_visible(self) -> bool:
        """True where storage can be read straight into it."""
        return self is not MemoryKind.DEVICE

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True)
class Attributes:
    """Attributes of a GPU, as its driver tells them.

    Attributes
    ----------
    name, compute_capability
        Such as ``"Orin"`` and ``(8, 7)``.
    total_bytes
        Size of its memory.
    is_integrated
        True where it shares the host's memory.
    has_managed_memory, has_concurrent_access
        True where managed memory exists, and where the host may touch it while kernels run.
    can_map_host_memory
        True where kernels can read page-locked host memory.
    driver
        Version of CUDA that the driver supports, such as ``"13.0"``.
    """

    name: str
    compute_capability: tuple[int, int]
    total_bytes: int
    is_integrated: bool
    has_managed_memory: bool
    has_concurrent_access: bool
    can_map_host_memory: bool
    driver: str

    @property
    def architecture(self) -> str:
        """Architecture as compilers write it, such as ``sm87``."""
        return "sm{}{}".format(*self.compute_capability)


class Event(Protocol):
    """A moment in a stream."""

    def synchronize(self) -> None:
        """Wait until the event has come.

        Raises
        ------
        BackendError
            Work of the stream before the event failed.
        """

    def ms_since(self, earlier: Event) -> float:
        """Milliseconds since an earlier event; both have come."""


class Stream(Protocol):
    """Device work in order."""

    @property
    def handle(self) -> int:
        """Number that the driver and the runtime libraries know the stream by."""

    def call(self, work: Callable[[int], None]) -> None:
        """Call ``work`` with the stream's handle, to enqueue device work.

        A real stream calls it at once. A simulated one calls it when the stream gets there.
        """

    def flush(self) -> None:
        """Return when all calls have been made; the work that they enqueued may go on."""

    def wait(self, event: Event) -> None:
        """Begin later work of this stream after an event of another stream."""

    def record(self) -> Event:
        """The moment after all work that was enqueued until now."""

    def synchronize(self) -> None:
        """Wait until the stream is empty.

        Raises
        ------
        BackendError
            Work of the stream failed.
        """


class Buffer(Protocol):
    """Memory for kernels or copies."""

    address: int
    nbytes: int

    def view(self, offset: int, nbytes: int) -> memoryview:
        """Writable bytes ``offset`` to ``offset + nbytes``, in host-visible memory."""

    def free(self) -> None:
        """Give the memory back; nothing may use it any more. Safe to call twice."""


class Accelerator(Protocol):
    """One GPU; safe to use from several threads.

    Attributes
    ----------
    attributes
        Attributes of the GPU.
    index
        Its number, counted from 0.
    onnxruntime_device
        ONNX Runtime's name for its memory: ``"cuda"``, or ``"cpu"`` for a simulated GPU.
    """

    attributes: Attributes
    index: int
    onnxruntime_device: str

    def current(self) -> AbstractContextManager[None]:
        """Make libraries use this GPU in the ``with`` statement."""

    def stream(self) -> Stream:
        """A new stream, which waits for no other."""

    def default_stream(self) -> Stream:
        """The stream that libraries use by default."""

    def allocate(self, kind: MemoryKind, nbytes: int) -> Buffer:
        """Reserve memory, aligned to 4096 bytes where it is host-visible and to 256 elsewhere.

        Raises
        ------
        BudgetError
            There is not enough memory.
        """

    def copy_in(self, stream: Stream, destination: int, source: memoryview) -> None:
        """Enqueue a copy from page-locked host memory to an address of the device."""

    def copy_out(self, stream: Stream, destination: memoryview, source: int) -> None:
        """Enqueue a copy from an address of the device to page-locked host memory."""

    def fill(self, stream: Stream, address: int, nbytes: int, byte: int) -> None:
        """Enqueue an overwriting of device memory."""

    def free_bytes(self) -> int:
        """Memory that no process uses."""


def describe(attributes: Attributes, kind: MemoryKind) -> str:
    """Description of a GPU and a kind of its memory, for the key of a profile."""
    return f"{attributes.name} {attributes.architecture}, CUDA {attributes.driver}, {kind} memory"


def choose_memory(attributes: Attributes, wanted: str = "auto") -> MemoryKind:
    """Kind of memory for weights on a GPU.

    A discrete GPU has its own memory. An integrated one uses the host's. Storage can be read
    straight into managed memory, with no copy. The next block is read while this one is executed,
    so the host has to be allowed to touch managed memory while kernels run. On Tegra up to compute
    capability 8.7 it is not: ``CONCURRENT_MANAGED_ACCESS`` is 0, and `cuStreamAttachMemAsync` moves
    whole allocations only. Device memory is used there too: the copy is cheap beside storage.
    Mapped memory is used only on request, because kernels may not cache it.

    Parameters
    ----------
    attributes
        Attributes of the GPU.
    wanted
        ``"auto"``, or the name of a kind to use.

    Raises
    ------
    InputError
        There is no such kind.
    BackendError
        The GPU can't use this kind.
    """
    if wanted == "auto":
        shared = attributes.is_integrated and attributes.has_managed_memory
        return (
            MemoryKind.MANAGED if shared and attributes.has_concurrent_access else MemoryKind.DEVICE
        )
    kinds = (MemoryKind.DEVICE, MemoryKind.MANAGED, MemoryKind.MAPPED)
    if wanted not in kinds:
        raise InputError(
            f"{wanted!r} is not a kind of GPU memory",
            why=f"kinds are auto, {', '.join(kinds)}",
            hint="leave it out for auto",
        )
    kind = MemoryKind(wanted)
    if kind is MemoryKind.MANAGED and not (
        attributes.has_managed_memory and attributes.has_concurrent_access
    ):
        raise _unsuitable(attributes, kind, "the host can't touch it while kernels run")
    if kind is MemoryKind.MAPPED and not attributes.can_map_host_memory:
        raise _unsuitable(attributes, kind, "kernels can't read host memory")
    return kind


def _unsuitable(attributes: Attributes, kind: MemoryKind, why: str) -> BackendError:
    return BackendError(
        f"weights can't lie in {kind} memory on {attributes.name}",
        why=why,
        hint="leave --gpu-memory out, or give device",
    )
