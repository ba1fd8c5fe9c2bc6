"""Delays by hand: two sides that slow each other, wait for each other, and settle."""

from __future__ import annotations

import pytest

from swapnet.executor.planning.plan import Read, Step
from swapnet.executor.planning.schedule import Schedule
from swapnet.executor.planning.timeline import Delays, predict, simulate
from tests.helpers.profiles import delays

MIB = 1 << 20


def order(blocks: int, needed: list[int], allowed: list[int], lap: int) -> Schedule:
    """Steps of one block each; sizes in MiB."""
    spans = [(block, block) for block in range(blocks)]
    return Schedule([], spans, [MIB * n for n in needed], [MIB * n for n in allowed], lap * MIB)


def test_what_computes_alone_takes_its_time() -> None:
    times = Delays(delays(None, [(3.0, 9.0), (4.0, 9.0)], step_ms=0.5))
    assert simulate(order(2, [0, 0], [0, 0], 0), times).steady_ms == 8.0
    assert simulate(Schedule([], [(0, 1)], [0], [0], 0), times).steady_ms == 7.5


def test_bytes_come_as_early_as_they_may() -> None:
    """One block of 4 ms of reading: during its own step its place is taken."""
    times = Delays(delays(None, [(10.0, 10.0)], bytes_per_s=MIB * 250))
    found = simulate(order(1, [1], [1], 1), times)
    assert found.steady_ms == pytest.approx(4 + 10)
    assert found.stalls_ms == pytest.approx([4])
    times = Delays(delays(None, [(10.0, 10.0), (6.0, 6.0)], bytes_per_s=MIB * 250))
    after_all = simulate(order(2, [1, 1], [1, 1], 1), times)
    assert after_all.steady_ms == pytest.approx(4 + 16)
    ahead = simulate(order(2, [1, 1], [1, 2], 1), times)
    assert ahead.steady_ms == pytest.approx(16)
    assert ahead.stalls_ms == pytest.approx([0, 0])


def test_each_side_is_slower_beside_the_other() -> None:
    """Step 0 needs nothing and takes 6 ms, 9 beside a reader; the bytes of step 1 take 4 ms
    alone, 8 beside step 0. While both are at work storage moves at 1/2 and step 0 at 2/3: bytes
    arrive after 8 ms, when 5.33 of the step's 6 ms are done; 0.67 ms are left alone."""
    profile = delays(
        None,
        [(6.0, 9.0), (1.0, 1.0)],
        bytes_per_s=MIB * 250,
        busy_bytes_per_s=MIB * 125,
    )
    found = simulate(order(2, [0, 1], [1, 1], 1), Delays(profile))
    assert found.steady_ms == pytest.approx(8 + 2 / 3 + 1)
    assert found.stalls_ms == pytest.approx([0, 0])


def test_a_pause_of_storage_costs_its_latency_once() -> None:
    profile = delays(None, [(1.0, 1.0), (1.0, 1.0)], bytes_per_s=MIB * 250, latency_ms=0.5)
    found = simulate(order(2, [1, 2], [2, 2], 2), Delays(profile))
    assert found.steady_ms == pytest.approx(0.5 + 4 + 4 + 1)


def test_bytes_that_are_there_do_not_wait_for_the_latency_of_others() -> None:
    """Storage was idle: it begins with step 1, which needs nothing more, to read for step 2."""
    profile = delays(None, [(1.0, 1.0)] * 3, bytes_per_s=MIB * 1e3, latency_ms=0.5)
    found = simulate(order(3, [1, 1, 2], [1, 2, 3], 2), Delays(profile))
    assert found.stalls_ms == pytest.approx([0, 0, 0.5])


def test_who_waited_wakes_up_while_storage_reads_on() -> None:
    """Step 1 waits 4 ms and wakes up in 1: a quarter of the bytes of step 2 has come by then, and
    another quarter during its own execution. Then storage waits for a place."""
    profile = delays(None, [(1.0, 1.0)] * 3, bytes_per_s=MIB * 250, wake_ms=1.0)
    found = simulate(order(3, [0, 1, 2], [0, 2, 2], 2), Delays(profile))
    assert found.stalls_ms == pytest.approx([0, 4 + 1, 2 + 1])
    assert found.steady_ms == pytest.approx(8 + 3)
    full = simulate(order(3, [0, 1, 2], [0, 1, 2], 2), Delays(profile))
    assert full.stalls_ms == pytest.approx([0, 4 + 1, 4 + 1])


def test_a_lead_that_shrinks_is_used_up() -> None:
    """Storage takes 8 ms for what is computed in 7; a lead of half an inference is lost."""
    blocks = [(3.5, 3.5), (3.5, 3.5)]
    times = Delays(delays(None, blocks, bytes_per_s=MIB * 250))
    found = simulate(order(2, [1, 2], [2, 3], 2), times)
    assert found.steady_ms == pytest.approx(8)


def test_reads_of_a_plan_are_simulated_as_its_schedule() -> None:
    profile = delays(None, [(1.0, 1.0), (2.0, 2.0)], bytes_per_s=MIB * 250)
    reads = [Read(1, at * MIB, at * MIB, MIB, after, MIB) for at, after in enumerate((-1, -1, 0))]
    found = predict([Step(0, 0, 0), Step(1, 1, 3)], reads, profile)
    assert found == simulate(order(2, [0, 3], [2, 3], 3), Delays(profile))
    assert found.steady_ms == pytest.approx(8 + 4 + 2)


def test_stored_bytes_are_read_and_coded_ones_expanded() -> None:
    """Of 2 MiB one half is plain, the other stored in half a MiB: 6 ms to read 1.5 MiB, and time
    to expand one."""
    profile = delays(None, [(1.0, 1.0)], bytes_per_s=MIB * 250)
    reads = [Read(0, 0, 0, 2 * MIB, -1, 3 * MIB // 2, "planes")]
    found = predict([Step(0, 0, 1)], reads, profile).steady_ms
    assert found == pytest.approx(6 + MIB / 8e6 + 1)
