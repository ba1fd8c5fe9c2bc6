"""The reader that measures."""

from __future__ import annotations

import pytest

from swapnet.executor.probing.reader import BackgroundReader, Ring, flow
from swapnet.executor.swapping.storage import WeightFile
from swapnet.manifest import Extent
from tests.helpers.engines import BuildToy


class Recorder:
    """Storage that remembers what was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, int]] = []

    def read_into(self, destination: memoryview, offset: int) -> None:
        self.asked.append((offset, len(destination)))


def test_reader_reads_all_bytes_once(engine: BuildToy) -> None:
    toy = engine("images")
    storage = WeightFile(toy.folder / "weights.bin")
    reader = BackgroundReader(storage, [block.extent for block in toy.manifest.blocks])
    assert reader.once() > 0
    assert reader.read_bytes == reader.total_bytes == toy.manifest.swappable_bytes
    with reader.reading():
        while reader.read_bytes < 3 * reader.total_bytes:
            pass
    storage.close()


def test_requests_are_equal_parts_as_in_a_plan() -> None:
    recorder = Recorder()
    extents = [Extent(4096, 5 << 20), Extent(8 << 20, 4096), Extent(16 << 20, 0)]
    reader = BackgroundReader(recorder, extents, readers=1, read_bytes=2 << 20)
    reader.once()
    size = 2621440
    assert recorder.asked == [(4096, size), (4096 + size, size), (8 << 20, 4096)]


def test_flow_is_the_slope_over_ends() -> None:
    assert flow([(0.0, 5), (1.0, 15), (2.0, 25)]) == pytest.approx(10)
    bursts = [(t / 10, 100 * (3 * t + i)) for t in range(20) for i in range(3)]
    assert flow(bursts) == pytest.approx(3000)
    assert flow([(0.0, 5), (1.0, 15)]) == 0
    assert flow([(1.0, 5), (1.0, 6), (1.0, 7)]) == 0


def test_flow_reads_for_a_while() -> None:
    recorder = Recorder()
    reader = BackgroundReader(recorder, [Extent(0, 4096)], readers=2)
    assert reader.flow(0.001) > 0
    assert len(recorder.asked) >= 8


def test_requests_go_around_a_ring_as_large_as_a_plans() -> None:
    ring = Ring(1 << 20)
    first = ring.next(1 << 20)
    first[:3] = b"abc"
    places = 32
    for _ in range(places - 1):
        ring.next(1 << 20)[:1] = b"x"
    assert bytes(first[:3]) == b"abc"
    assert bytes(ring.next(1 << 20)[:3]) == b"abc"


def test_nothing_to_read() -> None:
    reader = BackgroundReader(Recorder(), [])
    assert reader.flow(0.001) == 0
    reader.once()
    with reader.reading():
        pass
    assert reader.read_bytes == reader.total_bytes == 0
