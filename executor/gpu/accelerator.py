"""What the executor asks of a GPU: two streams, events, and four kinds of memory.

`swapnet.executor.gpu.cuda` is the real one, `swapnet.testing.gpu` one that needs no GPU.
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
    """Where bytes lie, and who may touch them.

    ``DEVICE``: the GPU's own memory; the host copies to it. ``MANAGED``: one address for both,
    pages go to whoever touches them. ``MAPPED``: page-locked host memory that kernels read where it
    lies. ``PINNED``: page-locked host memory that copies start from; kernels do not see it.
    """

    DEVICE = "device"
    MANAGED = "managed"
    MAPPED = "mapped"
    PINNED = "pinned"

    @property
    def is_host_visible(self) -> bool:
        """Whether storage can be read straight into it."""
        return self is not MemoryKind.DEVICE

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True)
class Attributes:
    """What a GPU says of itself.

    Attributes
    ----------
    name, compute_capability
        As ``"Orin"`` and ``(8, 7)``.
    total_bytes
        Of its memory.
    is_integrated
        It shares the host's memory.
    has_managed_memory, has_concurrent_access
        Managed memory exists; and the host may touch it while kernels run.
    can_map_host_memory
        Kernels can read page-locked host memory.
    driver
        Version of CUDA that the driver supports, as ``"13.0"``.
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
        """As compilers write it: ``sm87``."""
        return "sm{}{}".format(*self.compute_capability)


class Event(Protocol):
    """A moment in a stream."""

    def synchronize(self) -> None:
        """Wait until it has come.

        Raises
        ------
        BackendError
            What the stream did before it failed.
        """

    def ms_since(self, earlier: Event) -> float:
        """Milliseconds from another event; both have come."""


class Stream(Protocol):
    """Device work in order."""

    @property
    def handle(self) -> int:
        """As the driver and the runtime libraries know it."""

    def call(self, work: Callable[[int], None]) -> None:
        """Enqueue what ``work`` enqueues when it is given the stream's handle.

        A real stream calls it at once. A simulated one calls it when the stream gets there.
        """

    def flush(self) -> None:
        """Return when all calls have been made; what they enqueued may go on."""

    def wait(self, event: Event) -> None:
        """What is enqueued from now on begins after an event of another stream."""

    def record(self) -> Event:
        """The moment after all that was enqueued so far."""

    def synchronize(self) -> None:
        """Wait until the stream is empty.

        Raises
        ------
        BackendError
            Something of it failed.
        """


class Buffer(Protocol):
    """Memory that kernels, or copies, use."""

    address: int
    nbytes: int

    def view(self, offset: int, nbytes: int) -> memoryview:
        """Writable bytes of a host-visible kind."""

    def free(self) -> None:
        """Give it back; nothing may use it any more. Safe to call twice."""


class Accelerator(Protocol):
    """One GPU; safe to use from several threads.

    Attributes
    ----------
    attributes
        What it says of itself.
    index
        Which one it is.
    onnxruntime_device
        Where ONNX Runtime finds its addresses: ``"cuda"``, or ``"cpu"`` for a simulated one.
    """

    attributes: Attributes
    index: int
    onnxruntime_device: str

    def current(self) -> AbstractContextManager[None]:
        """Libraries called in the block of the ``with`` use this GPU."""

    def stream(self) -> Stream:
        """A new stream, which waits for no other."""

    def default_stream(self) -> Stream:
        """The one that libraries use that were given none."""

    def allocate(self, kind: MemoryKind, nbytes: int) -> Buffer:
        """Reserve memory, aligned to 4096 bytes where it is host-visible and to 256 elsewhere.

        Raises
        ------
        BudgetError
            There is not so much.
        """

    def copy_in(self, stream: Stream, destination: int, source: memoryview) -> None:
        """Enqueue a copy from page-locked host memory to an address of the device."""

    def copy_out(self, stream: Stream, destination: memoryview, source: int) -> None:
        """Enqueue a copy from an address of the device to page-locked host memory."""

    def fill(self, stream: Stream, address: int, nbytes: int, byte: int) -> None:
        """Enqueue an overwriting of device memory."""

    def free_bytes(self) -> int:
        """Memory that is not in use by anybody."""


def describe(attributes: Attributes, kind: MemoryKind) -> str:
    """What delays are measured on."""
    return f"{attributes.name} {attributes.architecture}, CUDA {attributes.driver}, {kind} memory"


def choose_memory(attributes: Attributes, wanted: str = "auto") -> MemoryKind:
    """Where weights should lie on a GPU.

    A discrete GPU has memory of its own. An integrated one uses the host's: in managed memory
    storage reads go straight to where kernels read, with no copy. That serves only where the host
    may touch it while kernels run, for the next block is read during this one's execution; on Tegra
    up to compute capability 8.7 ``CONCURRENT_MANAGED_ACCESS`` is 0, and `cuStreamAttachMemAsync`
    moves whole allocations only. There it is device memory too: the copy is cheap beside storage,
    and kernels may not cache mapped memory, which is for who asks for it.

    Parameters
    ----------
    attributes
        Of the GPU.
    wanted
        ``"auto"``, or the name of a kind to use.

    Raises
    ------
    InputError
        There is no such kind.
    BackendError
        The GPU can't use it.
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
