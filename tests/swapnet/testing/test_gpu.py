"""The simulated GPU itself: order, virtual time, failures."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from swapnet.errors import BackendError, BudgetError
from swapnet.executor.gpu.accelerator import MemoryKind
from swapnet.testing.gpu import SimulatedAccelerator

SEEDS = range(30)


def note(done: list[str], name: str, handle: int) -> None:
    """Work that tells that it was done."""
    assert handle == 0
    done.append(name)


def finished(first: str, second: str, *, ordered: bool) -> set[tuple[str, ...]]:
    """Orders in which two pieces of work of two streams ended, over all seeds."""
    orders: set[tuple[str, ...]] = set()
    for seed in SEEDS:
        gpu = SimulatedAccelerator(seed)
        one, other = gpu.stream(), gpu.stream()
        done: list[str] = []
        one.call(partial(note, done, first))
        if ordered:
            other.wait(one.record())
        other.call(partial(note, done, second))
        other.synchronize()
        one.synchronize()
        orders.add(tuple(done))
    return orders


def test_streams_run_in_any_order_unless_one_waits() -> None:
    assert finished("a", "b", ordered=False) == {("a", "b"), ("b", "a")}
    assert finished("a", "b", ordered=True) == {("a", "b")}


def test_work_of_one_stream_is_in_order() -> None:
    for seed in SEEDS:
        stream = SimulatedAccelerator(seed).stream()
        done: list[str] = []
        for name in "abcdef":
            stream.call(partial(note, done, name))
        stream.flush()
        assert "".join(done) == "abcdef"


@pytest.mark.parametrize("seed", SEEDS[:5])
def test_virtual_time_follows_streams_and_events(seed: int) -> None:
    gpu = SimulatedAccelerator(seed, copy_bytes_per_ms=100, call_ms=[5.0, 2.0])
    copies, compute = gpu.stream(), gpu.stream()
    device = gpu.allocate(MemoryKind.DEVICE, 1000)
    pinned = gpu.allocate(MemoryKind.PINNED, 1000)
    start = compute.record()
    gpu.copy_in(copies, device.address, pinned.view(0, 1000))
    arrived = copies.record()
    compute.call(lambda _: None)
    compute.wait(arrived)
    compute.call(lambda _: None)
    end = compute.record()
    end.synchronize()
    assert arrived.ms_since(start) == 10.0
    assert end.ms_since(start) == 12.0


def test_bytes_go_both_ways() -> None:
    gpu = SimulatedAccelerator()
    stream = gpu.stream()
    device = gpu.allocate(MemoryKind.DEVICE, 100)
    there, back = (gpu.allocate(MemoryKind.PINNED, 100) for _ in range(2))
    there.view(0, 100)[:] = bytes(range(100))
    gpu.copy_in(stream, device.address, there.view(0, 100))
    gpu.fill(stream, device.address + 50, 10, 7)
    gpu.copy_out(stream, back.view(0, 100), device.address)
    stream.synchronize()
    assert bytes(back.view(0, 100)) == bytes([*range(50), *[7] * 10, *range(60, 100)])


def test_the_host_can_not_touch_device_memory() -> None:
    device = SimulatedAccelerator().allocate(MemoryKind.DEVICE, 10)
    with pytest.raises(BackendError, match="touched device memory"):
        device.view(0, 10)


def test_memory_is_poisoned_counted_and_given_back() -> None:
    gpu = SimulatedAccelerator(total_bytes=100)
    managed = gpu.allocate(MemoryKind.MANAGED, 60)
    assert set(managed.view(0, 60)) == {0xA5}
    gpu.allocate(MemoryKind.PINNED, 1000)
    assert gpu.free_bytes() == 40
    with pytest.raises(BudgetError, match="is full") as caught:
        gpu.allocate(MemoryKind.DEVICE, 41)
    assert caught.value.why == "41 bytes were asked for, 40 are free"
    managed.free()
    managed.free()
    assert gpu.free_bytes() == 100


@pytest.mark.parametrize("seed", SEEDS[:5])
def test_a_failure_is_told_once_by_who_waits(seed: int) -> None:
    gpu = SimulatedAccelerator(seed, failing=[1])
    stream = gpu.stream()
    device = gpu.allocate(MemoryKind.DEVICE, 10)
    pinned = gpu.allocate(MemoryKind.PINNED, 10)
    for _ in range(3):
        gpu.copy_in(stream, device.address, pinned.view(0, 10))
    with pytest.raises(BackendError, match="refused") as caught:
        stream.synchronize()
    assert caught.value.why == "copy 1 fails"
    stream.synchronize()


def test_streams_that_wait_for_each_other_are_told() -> None:
    gpu = SimulatedAccelerator()
    one, other = gpu.stream(), gpu.stream()
    late = type(one.record())(gpu)
    other.wait(late)
    with pytest.raises(BackendError, match="stands still"):
        other.synchronize()


def test_addresses_are_those_of_numpy() -> None:
    buffer = SimulatedAccelerator().allocate(MemoryKind.MAPPED, 64)
    array = np.frombuffer(buffer.view(0, 64), np.uint8)
    assert array.ctypes.data == buffer.address
    assert buffer.address % 4096 == 0
