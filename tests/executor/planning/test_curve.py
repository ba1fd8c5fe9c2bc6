"""Latency over budget."""

from __future__ import annotations

from collections.abc import Callable

from swapnet.executor.planning.curve import curve, curve_budgets
from swapnet.executor.planning.planner import make_plan, smallest_budget
from swapnet.executor.planning.usage import demand
from swapnet.manifest import Manifest
from swapnet.profile import assumed_profile

MIB = 1 << 20


def test_budgets_reach_from_the_smallest_to_all(
    simulated_manifest: Callable[..., Manifest],
) -> None:
    manifest = simulated_manifest([MIB] * 12)
    budgets = curve_budgets(manifest)
    assert (budgets[0], budgets[-1]) == (smallest_budget(manifest)[0], demand(manifest).total_bytes)
    assert len(budgets) == 24
    assert list(budgets) == sorted(set(budgets))


def test_few_budgets_where_few_differ(simulated_manifest: Callable[..., Manifest]) -> None:
    manifest = simulated_manifest([MIB])
    (only,) = curve_budgets(manifest)
    assert only == smallest_budget(manifest)[0]
    assert len(curve(manifest, assumed_profile(manifest))) == 1


def test_points_are_plans_above_their_bound(simulated_manifest: Callable[..., Manifest]) -> None:
    manifest = simulated_manifest([MIB, 2 * MIB, MIB, 3 * MIB])
    profile = assumed_profile(manifest)
    points = curve(manifest, profile, count=6)
    assert len(points) == 6
    for point in points:
        plan = make_plan(manifest, profile, point.budget_bytes)
        assert (point.predicted_ms, point.streamed_bytes) == (
            plan.predicted_ms,
            plan.streamed_bytes,
        )
        assert point.bound_ms <= point.predicted_ms * 1.0001
    assert points[0].streamed_bytes > points[-1].streamed_bytes == 0
    assert points[-1].resident_bytes == 7 * MIB
