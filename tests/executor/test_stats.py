"""Counts since opening, and their histogram."""

from __future__ import annotations

from threading import Event

import pytest

from swapnet.errors import InputError, StorageError
from swapnet.executor import PlanOptions, SwapExecutor
from swapnet.executor.stats import Histogram, Stats
from swapnet.executor.swapping.storage import WeightFile
from tests.helpers.engines import BuildToy, Engine


@pytest.fixture
def toy(engine: BuildToy) -> Engine:
    """Blocks of 16 KiB, three of which share a weight."""
    return engine("used-twice")


def test_counts_hold_since_opening(toy: Engine) -> None:
    with SwapExecutor(toy.folder, toy.smallest) as executor:
        opened = executor.stats
        assert (opened.inferences, opened.failures, opened.refused, opened.last) == (0, 0, 0, None)
        parts_ms = opened.open_plan_ms + opened.open_read_ms + opened.open_sessions_ms
        assert 0 < opened.open_sessions_ms < parts_ms < opened.open_ms
        assert opened.open_read_bytes == executor.plan.resident_bytes
        executor(toy.feeds())
        executor.set_budget("100%")
        with pytest.raises(InputError):
            executor({})
        executor(toy.feeds())
        stats = executor.stats
    assert (stats.inferences, stats.failures, stats.refused) == (2, 0, 1)
    assert stats.latency.count == 2
    assert stats.last is not None
    assert stats.latency.sum_ms > stats.last.latency_ms
    assert stats.input_ms > stats.last.input_ms
    assert stats.output_ms > stats.last.output_ms
    assert stats.read_bytes > 0
    assert stats.reading_ms > 0
    assert 0 <= stats.overlap <= 1
    assert (stats.open_ms, stats.open_read_bytes) == (opened.open_ms, opened.open_read_bytes)


def test_a_failure_is_counted(toy: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    options = PlanOptions(resident=False, cyclic=False)
    with SwapExecutor(toy.folder, toy.smallest, options=options) as executor:

        def read_into(*_: object) -> None:
            raise StorageError("lost", why="the cable is loose")

        with monkeypatch.context() as patched:
            patched.setattr(WeightFile, "read_into", read_into)
            with pytest.raises(StorageError):
                executor(toy.feeds())
        executor(toy.feeds())
        assert (executor.stats.inferences, executor.stats.failures) == (1, 1)


def test_a_read_in_flight_is_in_the_time_of_reading(toy: Engine) -> None:
    is_open, begun, go_on = Event(), Event(), Event()

    def wait(*_: object) -> None:
        if is_open.is_set():
            begun.set()
            go_on.wait(60)

    options = PlanOptions(resident=False)
    with SwapExecutor(toy.folder, toy.smallest, options=options, before_read=wait) as executor:
        is_open.set()
        running = executor.submit(toy.feeds())
        try:
            assert begun.wait(60)
            seen_ms = executor.stats.reading_ms
            assert executor.stats.reading_ms > seen_ms > 0
        finally:
            go_on.set()
        running.result(60)


def test_times_fall_into_buckets() -> None:
    histogram = Histogram()
    for time_ms in (0.3, 1.0, 1.1, 60_000.0):
        histogram = histogram.plus(time_ms)
    assert histogram.counts == (2, 1, *(0 for _ in histogram.bounds_ms[2:]), 1)
    assert histogram.sum_ms == pytest.approx(60_002.4)
    assert Histogram().count == 0


@pytest.mark.parametrize(
    ("stall_ms", "reading_ms", "overlap"), [(0, 0, 1.0), (1, 4, 0.75), (5, 4, 0.0)]
)
def test_the_overlap_is_what_did_not_stall(
    stall_ms: float, reading_ms: float, overlap: float
) -> None:
    assert Stats(stall_ms=stall_ms, reading_ms=reading_ms).overlap == overlap
