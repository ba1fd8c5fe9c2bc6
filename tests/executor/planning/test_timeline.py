"""Delays by hand: two sides that slow each other, wait for each other, and settle."""

from __future__ import annotations

import pytest

from swapnet.executor.planning.plan import Read, Step
from swapnet.executor.planning.timeline import Delays, predict, simulate
from tests.helpers.profiles import delays

MIB = 1 << 20


def test_what_computes_alone_takes_its_time() -> None:
    times = Delays(delays(None, [(3.0, 9.0), (4.0, 9.0)], step_ms=0.5))
    assert simulate([(0, 0), (1, 1)], [], [0, 0], times).ends_ms == (8.0,)
    assert simulate([(0, 1)], [], [0], times).ends_ms == (7.5,)


def test_first_and_steady_inference() -> None:
    """One block of 10 ms; the next inference's bytes are read while it executes."""
    times = Delays(delays(None, [(10.0, 10.0)], bytes_per_s=MIB * 250))
    found = simulate([(0, 0)], [(MIB, -1)], [1], times)
    assert found.ends_ms[0] == pytest.approx(4 + 10)
    assert found.steady_ms == pytest.approx(4 + 10)
    assert found.stalls_ms == pytest.approx([4])
    ahead = simulate(
        [(0, 0), (1, 1)],
        [(MIB, -1)],
        [1, 1],
        Delays(delays(None, [(10.0, 10.0), (6.0, 6.0)], bytes_per_s=MIB * 250)),
    )
    assert (ahead.ends_ms[0], ahead.steady_ms) == pytest.approx((20, 20))
    early = simulate(
        [(0, 0), (1, 1)],
        [(MIB, -2)],
        [1, 1],
        Delays(delays(None, [(10.0, 10.0), (6.0, 6.0)], bytes_per_s=MIB * 250)),
    )
    assert (early.ends_ms[0], early.steady_ms) == pytest.approx((20, 16))


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
    found = simulate([(0, 0), (1, 1)], [(MIB, -1)], [0, 1], Delays(profile))
    assert found.ends_ms[0] == pytest.approx(8 + 2 / 3 + 1)
    assert found.stalls_ms == pytest.approx([0, 0])


def test_a_pause_of_storage_costs_its_latency_once() -> None:
    profile = delays(None, [(1.0, 1.0), (1.0, 1.0)], bytes_per_s=MIB * 250, latency_ms=0.5)
    found = simulate([(0, 0), (1, 1)], [(MIB, -1), (MIB, -1)], [1, 2], Delays(profile))
    assert found.steady_ms == pytest.approx(0.5 + 4 + 4 + 1)


def test_requests_that_may_begin_together_are_one() -> None:
    profile = delays(None, [(1.0, 1.0), (2.0, 2.0)], bytes_per_s=MIB * 250)
    reads = [Read(1, at * MIB, at * MIB, MIB, after) for at, after in enumerate((-1, -1, 0))]
    found = predict([Step(0, 0, 0), Step(1, 1, 3)], reads, profile)
    expected = simulate([(0, 0), (1, 1)], [(2 * MIB, -1), (MIB, 0)], [0, 2], Delays(profile))
    assert found == expected
    assert found.steady_ms == pytest.approx(8 + 4 + 2)
