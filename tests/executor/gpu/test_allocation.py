from __future__ import annotations

import threading

import pytest

from swapnet.executor.gpu.allocation import Allocations, Heap, Region
from swapnet.testing.gpu import SimulatedAccelerator


@pytest.fixture
def gpu() -> SimulatedAccelerator:
    return SimulatedAccelerator(total_bytes=10_000)


@pytest.fixture
def heap(gpu: SimulatedAccelerator) -> Heap:
    return Heap(gpu)


def test_a_heap_counts_and_limits(gpu: SimulatedAccelerator, heap: Heap) -> None:
    first = heap.take(4000, 256)
    assert first is not None
    assert (heap.used_bytes, gpu.free_bytes()) == (4000, 6000)
    heap.limit_bytes = 5000
    assert heap.take(1001, 256) is None
    assert heap.take(1000, 256) is not None
    assert heap.give(first)
    assert not heap.give(first)
    assert heap.used_bytes == 1000
    heap.close()
    heap.close()
    assert gpu.free_bytes() == 10_000


def test_a_heap_gives_what_the_gpu_has_and_as_it_aligns(
    gpu: SimulatedAccelerator, heap: Heap
) -> None:
    assert heap.take(10_001, 256) is None
    assert heap.take(100, 1 << 40) is None
    assert (heap.used_bytes, gpu.free_bytes()) == (0, 10_000)


def test_a_region_is_filled_once(gpu: SimulatedAccelerator) -> None:
    del gpu
    region = Region(4096, 1024)
    places = [region.take(100, 0), region.take(100, 512), region.take(512, 256)]
    assert places == [4096, 4608, None]
    assert region.give(4096)
    assert not region.give(4096)
    assert region.take(500, 256) is None
    assert region.used_bytes == 612


def test_what_a_region_has_no_room_for_comes_from_the_heap(heap: Heap) -> None:
    allocations = Allocations(heap)
    region = Region(4096, 512)
    with allocations.into(region):
        inside, outside = allocations.allocate(512, 256), allocations.allocate(300, 256)
    assert inside == 4096
    assert outside is not None
    assert heap.used_bytes == 300
    assert allocations.deallocate(inside)
    assert allocations.deallocate(outside)
    assert heap.used_bytes == 0
    assert not allocations.deallocate(inside)


def test_only_the_thread_that_named_a_source_gets_it(heap: Heap) -> None:
    allocations = Allocations(heap)
    elsewhere: list[int | None] = []
    with allocations.into(Region(4096, 4096)):
        thread = threading.Thread(target=lambda: elsewhere.append(allocations.allocate(64, 256)))
        thread.start()
        thread.join()
        assert heap.used_bytes == 64
        assert allocations.allocate(64, 256) == 4096
        with allocations.into(Region(1 << 20, 64)):
            assert allocations.allocate(64, 256) == 1 << 20
        assert allocations.allocate(64, 256) == 4096 + 256
    assert elsewhere != [4096]


def test_nothing_is_no_address(heap: Heap) -> None:
    allocations = Allocations(heap)
    assert allocations.allocate(0, 256) is None
    assert allocations.deallocate(0)
    assert allocations.refused == ""
    assert allocations.allocate(1 << 20, 256) is None
    assert allocations.refused == f"{1 << 20} bytes aligned to 256 do not fit"
