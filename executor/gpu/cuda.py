"""CUDA through pycuda: the only module that imports it.

TensorRT and ONNX Runtime use the primary context too. It is pushed in each thread for as long as a
call lasts: pycuda aborts the process where a thread ends with a context on its stack.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np

from swapnet.errors import BackendError, BackendUnavailableError, BudgetError
from swapnet.executor.gpu.accelerator import Attributes, MemoryKind
from swapnet.executor.gpu.accelerator import Event as AnyEvent
from swapnet.executor.gpu.accelerator import Stream as AnyStream
from swapnet.machine import available_memory_bytes, device_count
from swapnet.units import format_size

__all__ = ["Cuda", "check_pycuda", "device_count", "open_cuda"]

_PAGE_BYTES = 4096
"""Alignment of addresses for direct reads, which the driver does not promise."""

_NON_BLOCKING = 1
"""``CU_STREAM_NON_BLOCKING``: the stream does not wait for the legacy default stream."""


def check_pycuda() -> Any:
    """``pycuda.driver``; not initialised.

    Raises
    ------
    BackendUnavailableError
        Pycuda is not installed, or not for this driver.
    """
    try:
        import pycuda.driver as driver
    except ImportError as error:
        raise BackendUnavailableError(
            "pycuda is not here",
            why=str(error),
            hint="pip install 'swapnet-trt[cuda]'; it is compiled against the CUDA toolkit",
        ) from error
    return driver


def open_cuda(index: int = 0) -> Cuda:
    """A GPU by its number; the same object every time.

    Raises
    ------
    BackendUnavailableError
        There is no driver, no such GPU, no pycuda, or the GPU can't be opened.
    """
    return _open(index)


@cache
def _open(index: int) -> Cuda:
    count = device_count()
    if index >= count:
        raise BackendUnavailableError(
            f"there is no GPU {index}",
            why=f"the driver has {count}, counted from 0",
            hint=f"give a number below {count}",
        )
    driver = check_pycuda()
    try:
        driver.init()
        return Cuda(driver, index)
    except driver.Error as error:
        raise BackendUnavailableError(
            f"GPU {index} can't be opened",
            why=str(error).strip().splitlines()[0],
            hint="check that the driver is as new as the CUDA that pycuda was compiled for",
        ) from error


class Cuda:
    """One GPU; see `Accelerator`.

    Pycuda gives memory, streams and events back only where the context is current, or in the thread
    that opened it; elsewhere they would leak. So the wrappers make the context current before they
    delete them.
    """

    onnxruntime_device = "cuda"

    def __init__(self, driver: Any, index: int) -> None:
        self.driver = driver
        self.index = index
        device = driver.Device(index)
        self._context = device.retain_primary_context()
        self._depth = threading.local()
        self.attributes = _attributes(driver, device)

    @contextmanager
    def current(self) -> Iterator[None]:
        """Make the primary context this thread's in the ``with`` statement.

        Raises
        ------
        BackendError
            The driver refused a call in the statement.
        """
        depth: int = getattr(self._depth, "value", 0)
        if depth == 0:
            self._context.push()
        self._depth.value = depth + 1
        try:
            yield
        except self.driver.Error as error:
            raise BackendError(
                "the GPU refused",
                why=str(error).strip().splitlines()[0],
                hint="after an illegal access only a new process helps; else free GPU memory",
            ) from error
        finally:
            self._depth.value = depth
            if depth == 0:
                self._context.pop()

    def stream(self) -> Stream:
        with self.current():
            return Stream(self, self.driver.Stream(_NON_BLOCKING))

    def default_stream(self) -> Stream:
        return Stream(self, None)

    def allocate(self, kind: MemoryKind, nbytes: int) -> Buffer:
        size = max(nbytes, 1)
        # The driver would reserve more managed memory than there is.
        if kind is MemoryKind.MANAGED and size > (free := self.free_bytes()):
            raise _too_much(kind, nbytes, free)
        with self.current():
            try:
                if kind is MemoryKind.DEVICE:
                    return Buffer(self, kind, nbytes, self._reserve(kind, size))
                return Buffer(self, kind, nbytes, self._reserve(kind, size + _PAGE_BYTES))
            except self.driver.MemoryError as error:
                raise _too_much(kind, nbytes, self.free_bytes()) from error

    def _reserve(self, kind: MemoryKind, nbytes: int) -> Any:
        driver = self.driver
        if kind is MemoryKind.DEVICE:
            return driver.mem_alloc(nbytes)
        if kind is MemoryKind.MANAGED:
            return driver.managed_empty(nbytes, np.uint8, mem_flags=driver.mem_attach_flags.GLOBAL)
        flags = driver.host_alloc_flags.PORTABLE
        if kind is MemoryKind.MAPPED:
            flags |= driver.host_alloc_flags.DEVICEMAP
        return driver.pagelocked_empty(nbytes, np.uint8, mem_flags=flags)

    def copy_in(self, stream: AnyStream, destination: int, source: memoryview) -> None:
        with self.current():
            self.driver.memcpy_htod_async(destination, source, _handle(stream))

    def copy_out(self, stream: AnyStream, destination: memoryview, source: int) -> None:
        with self.current():
            self.driver.memcpy_dtoh_async(destination, source, _handle(stream))

    def fill(self, stream: AnyStream, address: int, nbytes: int, byte: int) -> None:
        with self.current():
            self.driver.memset_d8_async(address, byte, nbytes, _handle(stream))

    def free_bytes(self) -> int:
        with self.current():
            free = int(self.driver.mem_get_info()[0])
        # An integrated GPU's driver does not count the page cache, which the kernel would give up.
        return max(free, available_memory_bytes()) if self.attributes.is_integrated else free


class Stream:
    """A stream of the driver; see `swapnet.executor.gpu.accelerator.Stream`."""

    def __init__(self, cuda: Cuda, stream: Any) -> None:
        self._cuda = cuda
        self.stream = stream

    def __del__(self) -> None:
        with self._cuda.current():
            del self.stream

    @property
    def handle(self) -> int:
        """The ``CUstream``; 0 for the default stream."""
        return 0 if self.stream is None else int(self.stream.handle)

    def call(self, work: Callable[[int], None]) -> None:
        with self._cuda.current():
            work(self.handle)

    def flush(self) -> None:
        pass

    def wait(self, event: AnyEvent) -> None:
        assert isinstance(event, Event)
        with self._cuda.current():
            self.stream.wait_for_event(event.event)

    def record(self) -> Event:
        with self._cuda.current():
            return Event(self._cuda, self._cuda.driver.Event().record(self.stream))

    def synchronize(self) -> None:
        """Wait until the stream is empty; releases the GIL."""
        with self._cuda.current():
            self.stream.synchronize()


class Event:
    """An event of the driver; see `swapnet.executor.gpu.accelerator.Event`."""

    def __init__(self, cuda: Cuda, event: Any) -> None:
        self._cuda = cuda
        self.event = event

    def __del__(self) -> None:
        with self._cuda.current():
            del self.event

    def synchronize(self) -> None:
        """Wait until the event has come; releases the GIL."""
        with self._cuda.current():
            self.event.synchronize()

    def ms_since(self, earlier: AnyEvent) -> float:
        assert isinstance(earlier, Event)
        with self._cuda.current():
            return float(self.event.time_since(earlier.event))


class Buffer:
    """Memory of the driver; see `swapnet.executor.gpu.accelerator.Buffer`."""

    def __init__(self, cuda: Cuda, kind: MemoryKind, nbytes: int, memory: Any) -> None:
        self._cuda = cuda
        self._memory: Any = memory
        self._skipped = 0 if kind is MemoryKind.DEVICE else -memory.ctypes.data % _PAGE_BYTES
        self.nbytes = nbytes
        self.address = _device_address(kind, memory) + self._skipped

    def __del__(self) -> None:
        self.free()

    def view(self, offset: int, nbytes: int) -> memoryview:
        start = self._skipped + offset
        return memoryview(self._memory)[start : start + nbytes]

    def free(self) -> None:
        if self._memory is None:
            return
        memory, self._memory = self._memory, None
        with self._cuda.current():
            getattr(memory, "base", memory).free()


def _device_address(kind: MemoryKind, memory: Any) -> int:
    """Address as kernels see it; the host's for memory that they do not see."""
    if kind is MemoryKind.DEVICE:
        return int(memory)
    if kind is MemoryKind.PINNED:
        return int(memory.ctypes.data)
    return int(memory.base.get_device_pointer())


def _handle(stream: AnyStream) -> Any:
    assert isinstance(stream, Stream)
    return stream.stream


def _attributes(driver: Any, device: Any) -> Attributes:
    names = driver.device_attribute
    version = driver.get_driver_version()

    def has(attribute: Any) -> bool:
        return bool(device.get_attribute(attribute))

    return Attributes(
        name=str(device.name()),
        compute_capability=tuple(device.compute_capability()),
        total_bytes=int(device.total_memory()),
        is_integrated=has(names.INTEGRATED),
        has_managed_memory=has(names.MANAGED_MEMORY),
        has_concurrent_access=has(names.CONCURRENT_MANAGED_ACCESS),
        can_map_host_memory=has(names.CAN_MAP_HOST_MEMORY),
        driver=f"{version // 1000}.{version % 1000 // 10}",
    )


def _too_much(kind: MemoryKind, nbytes: int, free: int) -> BudgetError:
    return BudgetError(
        f"{format_size(nbytes)} of {kind} memory can't be reserved on the GPU",
        why=f"{nbytes} bytes were asked for, {free} are free",
        hint="give a smaller budget, or end what else uses the GPU",
    )
