"""Storage by size and number of requests."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

import pytest

from swapnet.calibration.delays.requests import (
    PAIRS,
    Computing,
    Interval,
    Pair,
    RequestMeter,
    choose,
    measure_requests,
)
from swapnet.profile import Request
from tests.executor.probing.test_reader import Recorder
from tests.helpers.threads import LIMIT_S

MIB = 1 << 20


def request(pair: Pair, bytes_per_s: float, *, busy: bool = True, speed: float = 1.0) -> Request:
    return Request(*pair, bytes_per_s, 1.0, busy, speed)


def test_the_fastest_while_computing_is_chosen() -> None:
    table = [request((2 * MIB, 3), 1e9), request((4 * MIB, 2), 1.2e9)]
    assert choose(table) == (4 * MIB, 2)
    assert choose([*table, request((8 * MIB, 6), 9e9, busy=False)]) == (4 * MIB, 2)


def test_slowing_the_model_down_counts_as_much_as_bandwidth() -> None:
    fast = request((2 * MIB, 4), 1.5e9, speed=0.6)
    kind = request((MIB, 2), 1e9, speed=0.95)
    assert choose([fast, kind]) == (MIB, 2)


@pytest.mark.parametrize(("rival", "chosen"), [(1.3e9, (4 * MIB, 1)), (1.5e9, (4 * MIB, 2))])
def test_one_large_request_where_nothing_is_clearly_better(rival: float, chosen: Pair) -> None:
    table = [request((4 * MIB, 2), rival), request((4 * MIB, 1), 1e9)]
    assert choose(table) == chosen


def test_what_fills_a_small_ring_is_never_chosen() -> None:
    assert choose([request((8 * MIB, 2), 2e9), request((MIB, 2), 1e9)]) == (MIB, 2)


def test_without_a_measurement_the_usual_pair() -> None:
    assert choose([]) == (4 * MIB, 1)


def test_each_reader_makes_requests_one_after_the_other_through_the_file() -> None:
    recorder = Recorder()
    meter = RequestMeter(recorder, 10 * 4096, 4 * 4096)
    sample = meter.measure((4096, 2))
    assert {nbytes for _, nbytes in recorder.asked} == {4096}
    assert len(recorder.asked) >= 6
    assert [offset for offset, _ in recorder.asked[:11]] == [4096 * (i % 10) for i in range(11)]
    assert sample.bytes_per_s > 0


def test_a_request_alone_ends_before_who_waits_for_it_goes_on() -> None:
    recorder = Recorder()
    landed_ms, wake_ms = RequestMeter(recorder, 2 * 4096, 4096).round_trip(4096)
    assert landed_ms > 0 < wake_ms
    assert [offset for offset, _ in recorder.asked] == [0, 4096, 0, 4096, 0]


def test_speed_is_progress_over_time() -> None:
    done = [Interval(0.0, 2.0, 1.0), Interval(2.0, 3.0, 1.0), Interval(3.0, 3.0, 0.0)]
    given = iter([done, []])
    passed = threading.Event()

    def infer() -> Sequence[Interval]:
        work = next(given, None)
        if work is None:
            passed.set()
        return work or []

    with Computing(infer) as computing:
        assert passed.wait(LIMIT_S)
    assert computing.speed(0.0, 2.0) == pytest.approx(0.5)
    assert computing.speed(1.0, 3.0) == pytest.approx(0.75)


def test_a_failing_model_fails_the_measurement() -> None:
    failing = threading.Event()

    def infer() -> Sequence[Interval]:
        failing.set()
        raise ValueError("odd")

    with pytest.raises(ValueError, match="odd"), Computing(infer):
        assert failing.wait(LIMIT_S)


@pytest.mark.slow
def test_every_pair_is_measured_idle_and_busy() -> None:
    pairs = [(4096, 1), (4096, 2), (8192, 2)]
    meter = RequestMeter(Recorder(), 1 << 16, 1 << 14)

    def infer() -> Sequence[Interval]:
        start = time.perf_counter()
        time.sleep(0.001)
        return [Interval(start, time.perf_counter(), 0.001)]

    seen: list[tuple[str, int, int]] = []
    table = measure_requests(meter, infer, lambda *told: seen.append(told), pairs)
    found = [(r.nbytes, r.readers, r.busy) for r in table]
    assert found == [(*pair, busy) for busy in (False, True) for pair in sorted(pairs)]
    assert all(0 < r.compute_speed <= 1 for r in table)
    assert seen == [("storage", done, 6) for done in range(6)]


def test_the_usual_pair_is_among_the_pairs() -> None:
    assert (2 * MIB, 3) in PAIRS
    assert len(set(PAIRS)) == 25
