"""Sums over rounds, against sums by hand."""

from __future__ import annotations

import pytest

from swapnet.executor.scenario.expected_outputs import ExpectedOutputs
from swapnet.executor.scenario.messages import Changed, Moment, RoundResult
from swapnet.executor.scenario.steps import BudgetStep
from swapnet.executor.scenario.summary import Played, Summing, bound_ms, samples
from tests.executor.scenario.conftest import an_entry, served


@pytest.fixture
def summing() -> Summing:
    """Two DNNs; the second weighs three times the first and has a deadline."""
    answers = ExpectedOutputs([False, False])
    for model in (0, 1):
        answers.expect((model, 0, "right"), {})
    return Summing((an_entry(), an_entry("two", priority=3.0, deadline_ms=50.0)), answers)


def rounds(*latencies: tuple[float, float]) -> Played:
    """Each with one request of each DNN."""
    return Played(tuple(RoundResult((served(0, one), served(1, two))) for one, two in latencies))


def test_latency_is_weighted_by_priority(summing: Summing) -> None:
    requests = [served(0, 10.0), served(0, 20.0), served(1, 100.0)]
    assert summing.weighted_ms(requests) == pytest.approx((10 + 20 + 3 * 100) / 5)
    assert summing.weighted_ms([*requests, served(1, 1e9, error="gone")]) == pytest.approx(66.0)
    assert summing.weighted_ms([served(0, 1.0, error="gone")]) is None


def test_ratios_are_medians_of_pairs(summing: Summing) -> None:
    ours = rounds((10, 10), (20, 20), (40, 40))
    other = rounds((20, 20), (20, 20), (120, 120))
    assert summing.ratio(ours, other) == pytest.approx(2.0)
    assert summing.ratio_of(1, ours, other) == pytest.approx(0.5)
    assert summing.ratio(ours, Played()) is None
    failed = Played((RoundResult((served(0, 1.0, error="gone"),)),))
    assert summing.ratio_of(0, failed, other) is None


def test_what_went_wrong_is_counted(summing: Summing) -> None:
    requests = (
        served(0, 10.0),
        served(0, 10.0, digest="another"),
        served(1, 51.0),
        served(1, 50.0),
        served(1, 70.0, error="BackendError: gone"),
        served(1, 70.0, error="BackendError: again"),
    )
    way = summing.way(Played((RoundResult(requests, read_bytes=(3, 4)),), peak_bytes=7))
    assert (way.requests, way.failures, way.wrong_outputs, way.deadline_misses) == (6, 2, 1, 1)
    assert (way.read_bytes, way.peak_bytes) == (7, 7)
    assert way.latency_ms["two"] is not None
    assert way.latency_ms["two"].max == 51.0
    assert summing.errors(requests) == {"two": "BackendError: gone"}


def test_one_that_never_ran(summing: Summing) -> None:
    way = summing.way(Played(note="too small"))
    assert way.weighted_latency_ms is None
    assert way.latency_ms == {"one": None, "two": None}
    assert way.note == "too small"


def test_phases_divide_the_run(summing: Summing) -> None:
    first = RoundResult(
        (served(0, 10.0, 0.0), served(0, 20.0, 5.0)), changed=(Changed(5.0, 50, 3.0),)
    )
    second = RoundResult(
        (served(0, 30.0, 0.0), served(0, 40.0, 9.9), served(0, 1.0, 10.5, error="x"))
    )
    played = Played((first, second))
    before, after = summing.phases((BudgetStep(0.25, 50),), 100, 10.0, played, played)
    assert (before.budget_bytes, before.start_s, before.end_s) == (100, 0.0, 5.0)
    assert (after.budget_bytes, after.start_s, after.end_s) == (50, 5.0, 20.0)
    assert (before.requests, after.requests, after.failures) == (1, 4, 1)
    assert (before.rebalance_ms, after.rebalance_ms) == (None, 3.0)
    assert before.weighted_latency_ms == 10.0
    assert after.unlimited_weighted_latency_ms == pytest.approx(30.0)
    assert summing.phases((), 100, 10.0, played, played) == ()


def test_rounds_follow_each_other_in_time() -> None:
    moments = (Moment(0.0, 9, (1, 2), (0, 0)), Moment(1.0, 9, (1, 2), (3, 0)))
    turn = RoundResult((), moments=moments, seconds=1.5)
    found = samples(Played((turn, turn)))
    assert [sample.time_s for sample in found] == [0.0, 1.0, 1.5, 2.5]
    assert found[-1].waiting == (3, 0)


@pytest.mark.parametrize(
    ("compute_ms", "read_bytes", "share_bytes", "storage_bytes_per_s", "expected"),
    [
        (10.0, 160.0, 200, 10_240.0, 15.625 * 3 / 4),
        (12.0, 160.0, 200, 10_240.0, 12.0),
        (10.0, 160.0, 100, 10_240.0, 15.625),
        (10.0, 160.0, 320, 10_240.0, 10.0),
        (10.0, 0.0, 320, 0.0, 10.0),
    ],
)
def test_no_inference_beats_computing_or_reading_what_the_ring_does_not_hold(
    compute_ms: float,
    read_bytes: float,
    share_bytes: int,
    storage_bytes_per_s: float,
    expected: float,
) -> None:
    """Of 320 bytes 160 are resident: the ring is what the share has beside those."""
    found = bound_ms(
        compute_ms,
        weights_bytes=320,
        read_bytes=read_bytes,
        share_bytes=share_bytes,
        storage_bytes_per_s=storage_bytes_per_s,
    )
    assert found == pytest.approx(expected)
