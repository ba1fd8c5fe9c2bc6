"""Latency over budget as the plans of one hour cost by the delays of another."""

from __future__ import annotations

from swapnet.executor.bench.prediction import predicted_ms
from swapnet.executor.curve import Point, curve_budgets
from swapnet.executor.plan import make_plan
from swapnet.manifest import Manifest
from swapnet.profile import Profile

__all__ = ["measured_curve"]


def measured_curve(
    manifest: Manifest, profile: Profile, delays: Profile, execution_ms: float
) -> tuple[Point, ...]:
    """The curve that measured points should lie on.

    Parameters
    ----------
    manifest, profile
        The engine, and the delays that it is planned by.
    delays
        To predict by.
    execution_ms
        Of the bound: the unswapped model.
    """
    points = []
    for budget_bytes in curve_budgets(manifest):
        plan = make_plan(manifest, profile, budget_bytes)
        reading_ms = plan.streamed_bytes / delays.storage.bytes_per_s * 1e3
        points.append(
            Point(
                budget_bytes=budget_bytes,
                predicted_ms=predicted_ms(plan, delays),
                bound_ms=max(execution_ms, reading_ms),
                streamed_bytes=plan.streamed_bytes,
                resident_bytes=plan.resident_bytes + plan.shared_bytes,
            )
        )
    return tuple(points)
