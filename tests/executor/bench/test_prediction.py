"""Profiles of another hour, and what plans take by them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from swapnet.executor.bench.prediction import paired_predictions, scaled
from swapnet.executor.planning.curve import curve
from swapnet.executor.planning.planner import make_plan, smallest_budget
from swapnet.executor.planning.usage import demand
from swapnet.manifest import Manifest
from swapnet.profile import assumed_profile
from tests.executor.bench.conftest import a_round

Simulated = Callable[..., tuple[Path, Manifest]]


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
