"""CUDA through a driver that records what it is asked, with pycuda's names."""

from __future__ import annotations

import ctypes
import gc
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest

from swapnet.errors import BackendError, BackendUnavailableError, BudgetError, InputError
from swapnet.executor.gpu import cuda
from swapnet.executor.gpu.accelerator import Attributes, MemoryKind, choose_memory, describe
from swapnet.executor.gpu.cuda import Cuda, device_count, open_cuda
from swapnet.machine import available_memory_bytes


class DriverError(Exception):
    pass


class OutOfMemory(DriverError):
    pass


class FakeContext:
    """Counts what each thread has on its stack: pycuda aborts where a thread ends with one."""

    def __init__(self) -> None:
        self.depth: dict[int, int] = {}

    def push(self) -> None:
        self.depth[threading.get_ident()] = self.depth.get(threading.get_ident(), 0) + 1

    def pop(self) -> None:
        self.depth[threading.get_ident()] -= 1


class FakeDevice:
    attributes: ClassVar[dict[str, int]] = {
        "INTEGRATED": 1,
        "MANAGED_MEMORY": 1,
        "CONCURRENT_MANAGED_ACCESS": 0,
    }

    def __init__(self, driver: FakeDriver, index: int) -> None:
        self._driver = driver
        assert index == 0

    def retain_primary_context(self) -> FakeContext:
        return self._driver.context

    def name(self) -> str:
        return "Orin"

    def compute_capability(self) -> tuple[int, int]:
        return 8, 7

    def total_memory(self) -> int:
        return 1 << 30

    def get_attribute(self, name: str) -> int:
        return self.attributes.get(name, 1)


class FakeAllocation:
    """Memory whose base NumPy keeps, as page-locked and managed arrays have it."""

    def __init__(self, driver: FakeDriver, nbytes: int) -> None:
        self._driver = driver
        self._raw = (ctypes.c_uint8 * nbytes)()
        self.__array_interface__ = np.ctypeslib.as_array(self._raw).__array_interface__

    def get_device_pointer(self) -> int:
        return ctypes.addressof(self._raw) + (1 << 40)

    def __int__(self) -> int:
        return 0xD000

    def free(self) -> None:
        self._driver._inside("free")


class FakeDriver:
    """``pycuda.driver`` as far as it is used."""

    Error, MemoryError = DriverError, OutOfMemory
    host_alloc_flags = SimpleNamespace(PORTABLE=1, DEVICEMAP=2)
    mem_attach_flags = SimpleNamespace(GLOBAL=1)
    device_attribute = SimpleNamespace(
        INTEGRATED="INTEGRATED",
        MANAGED_MEMORY="MANAGED_MEMORY",
        CONCURRENT_MANAGED_ACCESS="CONCURRENT_MANAGED_ACCESS",
        CAN_MAP_HOST_MEMORY="CAN_MAP_HOST_MEMORY",
    )

    def __init__(self) -> None:
        self.context = FakeContext()
        self.log: list[Any] = []
        self.gave_back: list[tuple[str, int]] = []
        """What pycuda destroyed, and whether the context was current."""
        self.fails = False

    def init(self) -> None:
        self.log.append("init")

    def Device(self, index: int) -> FakeDevice:
        return FakeDevice(self, index)

    def Stream(self, flags: int) -> Any:
        return FakeStream(self, flags)

    def Event(self) -> Any:
        return FakeEvent(self)

    def get_driver_version(self) -> int:
        return 12060

    def mem_get_info(self) -> tuple[int, int]:
        return 1 << 20, 1 << 30

    def mem_alloc(self, nbytes: int) -> FakeAllocation:
        self._inside(("device", nbytes))
        if nbytes == 13:
            raise OutOfMemory("out of memory")
        return FakeAllocation(self, nbytes)

    def managed_empty(self, shape: int, dtype: Any, *, mem_flags: int) -> Any:
        self._inside(("managed", shape, mem_flags))
        return np.asarray(FakeAllocation(self, shape))

    def pagelocked_empty(self, shape: int, dtype: Any, *, mem_flags: int) -> Any:
        self._inside(("pagelocked", shape, mem_flags))
        return np.asarray(FakeAllocation(self, shape))

    def memcpy_htod_async(self, dest: int, src: Any, stream: Any) -> None:
        self._inside(("in", dest, bytes(src), stream.handle))

    def memcpy_dtoh_async(self, dest: Any, src: int, stream: Any) -> None:
        self._inside(("out", len(dest), src, stream.handle))

    def memset_d8_async(self, dest: int, data: int, size: int, stream: Any) -> None:
        self._inside(("fill", dest, data, size, stream.handle))

    def _inside(self, entry: Any) -> None:
        assert self.context.depth[threading.get_ident()] == 1
        if self.fails:
            raise DriverError("an illegal memory access was encountered\nmore")
        self.log.append(entry)

    def gone(self, what: str) -> None:
        self.gave_back.append((what, self.context.depth.get(threading.get_ident(), 0)))


class FakeStream:
    handle = 77

    def __init__(self, driver: FakeDriver, flags: int) -> None:
        assert flags == 1
        self._driver = driver

    def wait_for_event(self, event: FakeEvent) -> None:
        self._driver._inside(("wait", self.handle))

    def synchronize(self) -> None:
        self._driver._inside("synchronize stream")

    def __del__(self) -> None:
        self._driver.gone("stream")


class FakeEvent:
    def __init__(self, driver: FakeDriver) -> None:
        self._driver = driver

    def record(self, stream: FakeStream) -> FakeEvent:
        self._driver._inside(("record", stream.handle))
        return self

    def synchronize(self) -> None:
        self._driver._inside("synchronize event")

    def __del__(self) -> None:
        self._driver.gone("event")

    def time_since(self, event: FakeEvent) -> float:
        assert event is not self
        return 2.5


@pytest.fixture
def driver() -> FakeDriver:
    return FakeDriver()


@pytest.fixture
def gpu(driver: FakeDriver) -> Cuda:
    return Cuda(driver, 0)


def test_attributes_are_the_devices(gpu: Cuda) -> None:
    attributes = gpu.attributes
    assert attributes.architecture == "sm87"
    assert describe(attributes, MemoryKind.MAPPED) == "Orin sm87, CUDA 12.6, mapped memory"
    assert attributes.is_integrated
    assert not attributes.has_concurrent_access


def test_calls_are_made_in_the_primary_context(gpu: Cuda, driver: FakeDriver) -> None:
    stream = gpu.stream()
    handles: list[int] = []
    stream.call(handles.append)
    stream.flush()
    first, second = stream.record(), stream.record()
    stream.wait(first)
    first.synchronize()
    stream.synchronize()
    assert second.ms_since(first) == 2.5
    assert handles == [77]
    assert [entry[0] for entry in driver.log if isinstance(entry, tuple)] == [
        "record",
        "record",
        "wait",
    ]
    assert set(driver.context.depth.values()) == {0}


def test_threads_leave_no_context_behind(gpu: Cuda, driver: FakeDriver) -> None:
    stream = gpu.stream()
    thread = threading.Thread(target=lambda: stream.record().synchronize())
    thread.start()
    thread.join()
    assert len(driver.context.depth) == 2
    assert set(driver.context.depth.values()) == {0}


def test_what_is_dropped_is_given_back_in_the_context(gpu: Cuda, driver: FakeDriver) -> None:
    """By any thread: pycuda itself gives back only where the context is current."""
    buffer, stream = gpu.allocate(MemoryKind.PINNED, 64), gpu.stream()
    kept = [stream.record(), stream, buffer]
    del buffer, stream

    def drop() -> None:
        kept.clear()
        gc.collect()

    thread = threading.Thread(target=drop)
    thread.start()
    thread.join()
    assert driver.log.count("free") == 1
    assert sorted(driver.gave_back) == [("event", 1), ("stream", 1)]


def test_contexts_are_pushed_once_where_calls_nest(gpu: Cuda, driver: FakeDriver) -> None:
    with gpu.current():
        gpu.stream().synchronize()
        assert driver.context.depth[threading.get_ident()] == 1


@pytest.mark.parametrize(
    ("kind", "entry"),
    [
        (MemoryKind.DEVICE, ("device", 64)),
        (MemoryKind.MANAGED, ("managed", 64 + 4096, 1)),
        (MemoryKind.MAPPED, ("pagelocked", 64 + 4096, 3)),
        (MemoryKind.PINNED, ("pagelocked", 64 + 4096, 1)),
    ],
)
def test_memory_of_each_kind(
    gpu: Cuda, driver: FakeDriver, kind: MemoryKind, entry: tuple[Any, ...]
) -> None:
    buffer = gpu.allocate(kind, 64)
    assert driver.log == [entry]
    if kind is MemoryKind.DEVICE:
        assert buffer.address == 0xD000
    else:
        view = buffer.view(8, 4)
        view[:] = b"abcd"
        assert bytes(buffer.view(8, 4)) == b"abcd"
        host = np.frombuffer(buffer.view(0, 64), np.uint8).ctypes.data
        mapped = 0 if kind is MemoryKind.PINNED else 1 << 40
        assert host % 4096 == 0
        assert buffer.address == host + mapped
    buffer.free()
    buffer.free()
    assert driver.log == [entry, "free"]


def test_what_the_page_cache_holds_is_free_where_memory_is_shared(
    driver: FakeDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda, "available_memory_bytes", lambda: 5 << 30)
    assert Cuda(driver, 0).free_bytes() == 5 << 30
    monkeypatch.setitem(FakeDevice.attributes, "INTEGRATED", 0)
    assert Cuda(driver, 0).free_bytes() == 1 << 20


def test_the_host_says_what_is_available(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    assert available_memory_bytes(meminfo) == 0
    meminfo.write_text("MemTotal: 16 kB\nMemFree: 1 kB\nMemAvailable:    12 kB\n")
    assert available_memory_bytes(meminfo) == 12 << 10


@pytest.mark.parametrize("nbytes", [(1 << 20) + 1, 13])
def test_more_memory_than_is_free(gpu: Cuda, nbytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Managed memory too: asking for more than is free can hang a GPU."""
    monkeypatch.setattr(cuda, "available_memory_bytes", lambda: 0)
    kind = MemoryKind.DEVICE if nbytes == 13 else MemoryKind.MANAGED
    with pytest.raises(BudgetError, match=f"{kind} memory can't be reserved") as caught:
        gpu.allocate(kind, nbytes)
    assert caught.value.why == f"{nbytes} bytes were asked for, {1 << 20} are free"


def test_copies_name_addresses_and_streams(gpu: Cuda, driver: FakeDriver) -> None:
    stream = gpu.stream()
    gpu.copy_in(stream, 0x100, memoryview(b"bytes"))
    gpu.copy_out(stream, memoryview(bytearray(3)), 0x200)
    gpu.fill(stream, 0x300, 9, 255)
    assert [entry[:-1] for entry in driver.log] == [
        ("in", 0x100, b"bytes"),
        ("out", 3, 0x200),
        ("fill", 0x300, 255, 9),
    ]


def test_what_the_driver_refuses_is_a_backend_error(gpu: Cuda, driver: FakeDriver) -> None:
    stream = gpu.stream()
    driver.fails = True
    with pytest.raises(BackendError, match="the GPU refused") as caught:
        stream.synchronize()
    assert caught.value.why == "an illegal memory access was encountered"
    assert set(driver.context.depth.values()) == {0}


class Library:
    """``libcuda.so.1`` as far as it is asked."""

    def __init__(self, status: int, count: int) -> None:
        self._status = status
        self._count = count

    def cuInit(self, flags: int) -> int:
        return self._status

    def cuDeviceGetCount(self, count: Any) -> int:
        count._obj.value = self._count
        return 0


@pytest.mark.parametrize(("status", "count"), [(100, 0), (0, 0)])
def test_drivers_without_a_gpu(monkeypatch: pytest.MonkeyPatch, status: int, count: int) -> None:
    monkeypatch.setattr("ctypes.CDLL", lambda _: Library(status, count))
    with pytest.raises(BackendUnavailableError, match="no CUDA GPU here") as caught:
        device_count()
    assert f"answers {status} and counts {count}" in caught.value.why


def test_a_gpu_is_opened_once(monkeypatch: pytest.MonkeyPatch, driver: FakeDriver) -> None:
    monkeypatch.setattr("ctypes.CDLL", lambda _: Library(0, 1))
    monkeypatch.setattr(cuda, "check_pycuda", lambda: driver)
    cuda._open.cache_clear()
    try:
        assert open_cuda() is open_cuda()
        assert driver.log == ["init"]
        with pytest.raises(BackendUnavailableError, match="no GPU 1") as caught:
            open_cuda(1)
        assert caught.value.hint == "give a number below 1"
    finally:
        cuda._open.cache_clear()


def test_a_driver_that_does_not_start(monkeypatch: pytest.MonkeyPatch, driver: FakeDriver) -> None:
    def fail() -> None:
        raise DriverError("system has unsupported display driver")

    monkeypatch.setattr("ctypes.CDLL", lambda _: Library(0, 1))
    monkeypatch.setattr(cuda, "check_pycuda", lambda: driver)
    monkeypatch.setattr(driver, "init", fail)
    cuda._open.cache_clear()
    with pytest.raises(BackendUnavailableError, match="GPU 0 can't be opened") as caught:
        open_cuda()
    assert "unsupported display driver" in caught.value.why


def test_pycuda_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pycuda", None)
    with pytest.raises(BackendUnavailableError, match="pycuda is not here") as caught:
        cuda.check_pycuda()
    assert "swapnet-trt[cuda]" in caught.value.hint


def attributes(**changes: Any) -> Attributes:
    values: dict[str, Any] = {
        "name": "gpu",
        "compute_capability": (9, 0),
        "total_bytes": 1,
        "is_integrated": False,
        "has_managed_memory": True,
        "has_concurrent_access": True,
        "can_map_host_memory": True,
        "driver": "13.0",
    }
    return Attributes(**{**values, **changes})


@pytest.mark.parametrize(
    ("changes", "wanted", "kind"),
    [
        ({}, "auto", MemoryKind.DEVICE),
        ({"is_integrated": True}, "auto", MemoryKind.MANAGED),
        ({"is_integrated": True, "has_concurrent_access": False}, "auto", MemoryKind.DEVICE),
        ({"is_integrated": True, "has_concurrent_access": False}, "mapped", MemoryKind.MAPPED),
        (
            {"is_integrated": True, "has_managed_memory": False, "can_map_host_memory": False},
            "auto",
            MemoryKind.DEVICE,
        ),
        ({}, "managed", MemoryKind.MANAGED),
        ({}, "mapped", MemoryKind.MAPPED),
        ({"is_integrated": True}, "device", MemoryKind.DEVICE),
    ],
)
def test_memory_is_chosen_by_what_the_gpu_can(
    changes: dict[str, Any], wanted: str, kind: MemoryKind
) -> None:
    assert choose_memory(attributes(**changes), wanted) is kind


@pytest.mark.parametrize(
    ("changes", "wanted", "why"),
    [
        ({"has_concurrent_access": False}, "managed", "can't touch it while kernels run"),
        ({"can_map_host_memory": False}, "mapped", "kernels can't read host memory"),
    ],
)
def test_memory_that_would_go_wrong_is_refused(
    changes: dict[str, Any], wanted: str, why: str
) -> None:
    with pytest.raises(BackendError, match=f"can't lie in {wanted} memory") as caught:
        choose_memory(attributes(**changes), wanted)
    assert why in caught.value.why


@pytest.mark.parametrize("wanted", ["pinned", "fast"])
def test_kinds_that_do_not_exist(wanted: str) -> None:
    with pytest.raises(InputError, match="is not a kind of GPU memory"):
        choose_memory(attributes(), wanted)
