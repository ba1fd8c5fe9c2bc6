"""Reports of rounds that were never run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from swapnet.executor.bench.report import Report, as_text, warnings
from swapnet.executor.bench.rounds import Rounds
from swapnet.executor.bench.summary import make_report, paired_predictions, peer_of, scaled
from swapnet.executor.device import Device
from swapnet.executor.planning.curve import curve
from swapnet.executor.planning.planner import make_plan, smallest_budget
from swapnet.executor.planning.usage import demand
from swapnet.manifest import Manifest
from swapnet.profile import assumed_profile
from tests.executor.bench.conftest import a_peer, a_report, a_round, an_opening

Simulated = Callable[..., tuple[Path, Manifest]]


@pytest.fixture
def report(simulated: Simulated) -> Callable[..., Report]:
    """A report of two rounds: ours 10 and 30 ms, resident 8 and 20, the unswapped 5 and 20."""
    _, manifest = simulated([1 << 20] * 8)
    profile = assumed_profile(manifest)

    def rounds_of(**sides: Any) -> Rounds:
        usual: dict[str, Any] = {
            "swapped": [
                a_round([10.0] * 3, stall_ms=1.0, read_bytes=10),
                a_round([30.0] * 3, stall_ms=3.0, read_bytes=10),
            ],
            "resident": [
                a_round([8.0], idle_ms=(4.0,), storage_bytes_per_s=1e9),
                a_round([20.0], idle_ms=(16.0,), storage_bytes_per_s=1e9),
            ],
            "unswapped": [a_round([5.0]), a_round([20.0])],
        }
        return Rounds({**usual, **sides}, warm_up_inferences=4, warm_up_ms=200.0, wall_s=2.0)

    def make(
        budget_bytes: int | None = None, sides: dict[str, Any] | None = None, **fields: Any
    ) -> Report:
        budget_bytes = budget_bytes or smallest_budget(manifest)[0] + (2 << 20)
        usual: dict[str, Any] = {
            "peers": {"mapped": a_peer(6.0)},
            "fixed_bytes": 40,
            "peak_bytes": 90,
            "memory_accounting": "kernel",
            "max_abs_error": 1e-5,
            "max_rel_error": 1e-6,
            "load_mode": "direct",
            "opening": an_opening(),
            "engine_bytes": 9 << 20,
        }
        return make_report(
            *(manifest, profile, make_plan(manifest, profile, budget_bytes)),
            rounds_of(**(sides or {})),
            budget="7MiB",
            percentiles=(50, 99),
            advice=True,
            device=Device(2),
            command="swapnet bench",
            **{**usual, **fields},
        )

    return make


def test_ratios_are_taken_pair_by_pair(report: Callable[..., Report]) -> None:
    found = report()
    assert found.ratio_to_unswapped == pytest.approx((10 / 5 + 30 / 20) / 2)
    assert found.ratio_to_contended_bound == pytest.approx((10 / 8 + 30 / 20) / 2)
    assert found.streamed_bytes == 10
    assert found.rounds == 2
    assert found.iterations == 6
    assert found.idle_ms == 10.0
    assert found.execution_ms == 12.5
    assert found.peers["mapped"].ratio == 6.0
    assert found.percentiles_ms == {"50": 10.0, "99": 30.0}
    assert found.max_rel_error == 1e-6


def test_predictions_are_paired_too(report: Callable[..., Report]) -> None:
    found = report()
    resident = [a_round([8.0], idle_ms=(ms,), storage_bytes_per_s=1e9) for ms in (10.0, 10.0)]
    steady = report(sides={"resident": resident})
    assert steady.prediction_error == pytest.approx(20 / steady.paired_predicted_ms - 1)
    assert found.prediction_error != steady.prediction_error
    assert found.predicted_ms == steady.predicted_ms


def test_without_the_unswapped_ours_in_memory_is_the_bound(report: Callable[..., Report]) -> None:
    found = report(sides={"unswapped": []}, max_abs_error=None, max_rel_error=None)
    assert found.unswapped_ms is None
    assert found.ratio_to_unswapped is None
    assert found.execution_ms == 10.0


def test_bytes_read_in_pauses_are_in_no_bound(report: Callable[..., Report]) -> None:
    resident = [a_round([8.0], idle_ms=(4.0,), storage_bytes_per_s=1e9)] * 2
    sides = {"resident": resident, "unswapped": [a_round([1.0])] * 2}
    back_to_back = report(sides=sides)
    assert back_to_back.verdict == "storage-bound"
    assert back_to_back.bound_ms == back_to_back.reading_ms > 1
    paused = [a_round([ms] * 3, ahead_bytes=8 << 20) for ms in (1.2, 1.4)]
    found = report(sides={**sides, "swapped": paused})
    assert found.reading_ms == 0
    assert found.bound_ms == 1
    assert found.verdict == "compute-bound"
    assert found.overlap_fraction == 1
    shown = as_text(found)
    assert "contended 8.00 ms, ratio 0.162 (below 1: read in pauses)" in shown
    assert "noise" not in shown


def test_nothing_is_streamed_when_everything_fits(report: Callable[..., Report]) -> None:
    still = [a_round([8.0], idle_ms=(4.0,)), a_round([9.0], idle_ms=(4.0,))]
    found = report(1 << 30, {"resident": still})
    assert found.verdict == "not swapped"
    assert found.reading_ms == 0
    assert found.overlap_fraction == 1
    assert found.ratio_to_contended_bound == found.ratio_to_bound


def test_peers_are_compared_with_the_rounds_that_they_ran() -> None:
    ours = [a_round([10.0]), a_round([20.0]), a_round([999.0])]
    peer = peer_of(ours, [a_round([50.0]), a_round([100.0])], note="it died")
    assert peer.ratio == pytest.approx(5.0)
    assert peer.streamed_bytes is None
    assert peer.note == "it died"
    assert peer_of(ours, [], note="never").latency_ms is None


def test_text_names_all_sides() -> None:
    shown = as_text(
        a_report(
            peers={
                "mapped": a_peer(7.0),
                "against": a_peer(None, note="killed"),
                "third": a_peer(1.2, note="late"),
            },
        )
    )
    assert "Memory-mapped: median = 700.00 ms, 7.00 times ours" in shown
    assert "The other engine: killed" in shown
    assert "third: median = 120.00 ms, 1.20 times ours; late" in shown
    assert "with the delays of these rounds 102.00 ms, measured -2.0%" in shown
    assert "Verdict: compute-bound" in shown


def test_a_report_counts_what_was_measured_and_how(report: Callable[..., Report]) -> None:
    found = report()
    assert (found.warm_up_inferences, found.warm_up_ms, found.wall_s) == (4, 200.0, 2.0)
    assert found.duration_s == pytest.approx(0.12)
    assert found.stable is False
    assert found.parts_ms["stall"].median == found.stall_ms == 2.0
    assert found.stall_fraction == pytest.approx(0.1)
    assert found.idle_cv_percent == pytest.approx(60)
    assert found.latency_ms.cv_percent == pytest.approx(50)
    assert found.advice is not None
    assert (found.rate_hz, found.deadline_misses, found.idle_ms_between) == (None, None, 0.0)


def test_deadlines_are_counted_where_there_is_a_rate(report: Callable[..., Report]) -> None:
    late = [a_round([10.0, 12.0], is_late=True, idle_ms_before=5.0, ahead_bytes=8)]
    late.append(a_round([10.0]))
    found = report(sides={"swapped": late}, rate_hz=50.0)
    assert (found.rate_hz, found.deadline_misses) == (50.0, 2)
    assert (found.idle_ms_between, found.ahead_bytes) == (5.0, 8)
    assert "at 50 Hz 2 of 3 deadlines missed" in as_text(found)


def test_missed_deadlines_are_said_where_no_time_is_left_for_pauses() -> None:
    overrun = a_report(rate_hz=50.0, deadline_misses=15, idle_ms_between=0.0)
    assert "at 50 Hz 15 of 15 deadlines missed" in as_text(overrun)


def test_noise_is_marked() -> None:
    quiet = a_report(rounds=5, iterations=101, percentiles_ms={"99": 1.0, "100": 2.0})
    assert not list(warnings(quiet))
    assert "of only" not in as_text(quiet)
    noisy = a_report(
        iterations=99,
        percentiles_ms={"99": 1.0, "50": 0.5},
        ratio_to_bound=0.664,
        idle_cv_percent=2.6,
        stable=False,
    )
    shown = as_text(noisy)
    assert "percentile(99%) = 1.00 ms (of only 99), percentile(50%) = 0.50 ms" in shown
    assert "ratio 0.664 (below 1: noise)" in shown
    assert "Warning: execution in memory varies by 2.6%, more than 2.5%" in shown
    assert "Warning: medians of the last rounds differ by more than 10% after 5 rounds" in shown


def test_what_opening_reads_for_packed_weights_is_said() -> None:
    assert "packed" not in as_text(a_report())
    opening = an_opening(packing_bytes=96 << 20, transient_bytes=24 << 20)
    said = as_text(a_report(opening=opening))
    assert "in the page cache; 96MiB read for packed weights, at most 24MiB at a time" in said


def test_execution_and_storage_are_stretched(simulated: Simulated) -> None:
    _, manifest = simulated([1 << 20, 2 << 20])
    profile = assumed_profile(manifest)
    whole = profile.step_ms + sum(block.idle_ms for block in profile.blocks)
    slower = scaled(profile, 2 * whole, profile.storage.bytes_per_s / 4)
    assert slower.step_ms + sum(b.idle_ms for b in slower.blocks) == pytest.approx(2 * whole)
    for before, after in zip(profile.blocks, slower.blocks, strict=True):
        assert after.busy_ms == pytest.approx(2 * before.busy_ms)
    assert slower.storage.busy_bytes_per_s == profile.storage.busy_bytes_per_s / 4
    assert slower.storage.request_bytes == profile.storage.request_bytes


def test_nothing_measured_changes_nothing(simulated: Simulated) -> None:
    _, manifest = simulated([1 << 20])
    profile = assumed_profile(manifest)
    assert scaled(profile, 0, 0) == profile


def test_a_round_twice_as_slow_predicts_twice_the_time(simulated: Simulated) -> None:
    _, manifest = simulated([1 << 20] * 8)
    profile = assumed_profile(manifest)
    profile = scaled(profile, 10.0, 1e9)
    plan = make_plan(manifest, profile, smallest_budget(manifest)[0] + (2 << 20))
    rounds = [a_round([], idle_ms=(10.0,), storage_bytes_per_s=1e9)]
    rounds.append(a_round([], idle_ms=(19.0, 20.0, 21.0), storage_bytes_per_s=5e8))
    first, second = paired_predictions(plan, profile, rounds)
    assert first == pytest.approx(plan.predicted_ms)
    assert second == pytest.approx(2 * first, rel=0.1)


@pytest.mark.slow
def test_a_curve_is_planned_by_one_hour_and_predicted_by_another(simulated: Simulated) -> None:
    _, manifest = simulated([1 << 20] * 12)
    profile = assumed_profile(manifest)
    now = scaled(profile, 100.0, 0)
    points = curve(manifest, profile, delays=now, execution_ms=90.0)
    assert points[0].budget_bytes == smallest_budget(manifest)[0]
    assert points[-1].budget_bytes == demand(manifest).total_bytes
    assert points[-1].streamed_bytes == 0
    assert points[-1].bound_ms == pytest.approx(90.0)
    assert points[-1].predicted_ms == pytest.approx(100.0)
    same = curve(manifest, profile, delays=profile)
    assert same == curve(manifest, profile)
