"""Predicted latency over budget: the cost of a model at every size that it fits in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from swapnet.executor.planning.floor import floor_ms
from swapnet.executor.planning.plan import PlanOptions
from swapnet.executor.planning.planner import make_plan, smallest_budget
from swapnet.executor.planning.timeline import predict
from swapnet.executor.planning.usage import demand
from swapnet.manifest import Manifest
from swapnet.profile import Profile

__all__ = ["Point", "curve", "curve_budgets", "spread"]

_POINTS = 24


@dataclass(frozen=True)
class Point:
    """Prediction for one budget.

    Attributes
    ----------
    budget_bytes
        The budget.
    predicted_ms
        Steady-state latency of the plan.
    bound_ms
        Lower bound of the latency: `floor_ms`.
    streamed_bytes
        Bytes read in every inference.
    resident_bytes
        Weights that stay in memory.
    reading_ms
        Time to read ``streamed_bytes`` at the idle bandwidth of storage.
    """

    budget_bytes: int
    predicted_ms: float
    bound_ms: float
    streamed_bytes: int
    resident_bytes: int
    reading_ms: float = 0.0


def curve_budgets(manifest: Manifest, count: int = _POINTS) -> tuple[int, ...]:
    """Budgets from the smallest possible one to everything resident, in geometric progression."""
    smallest, _ = smallest_budget(manifest)
    return spread(smallest, demand(manifest).total_bytes, count)


def spread(smallest: int, largest: int, count: int) -> tuple[int, ...]:
    """At most ``count`` different budgets from one to the other, in geometric progression."""
    largest = max(largest, smallest)
    factor = (largest / smallest) ** (1 / max(count - 1, 1))
    between = [int(smallest * factor**index) for index in range(1, count - 1)]
    return tuple(sorted({smallest, largest, *(b for b in between if smallest < b < largest)}))


def curve(
    manifest: Manifest,
    profile: Profile,
    options: PlanOptions | None = None,
    *,
    delays: Profile | None = None,
    execution_ms: float | None = None,
    count: int = _POINTS,
    budgets: Sequence[int] = (),
) -> tuple[Point, ...]:
    """Plan for budgets from the smallest possible one to everything resident, or for given ones.

    Parameters
    ----------
    manifest, profile
        The engine, and the delays to plan with.
    options
        Restrictions of the plans.
    delays
        Delays for prediction and bound, measured at another hour; by default ``profile``.
    execution_ms
        Latency of the unswapped model, for the bound; by default the sum of the blocks' idle times.
    count
        Upper limit of the number of budgets: equal ones are left out.
    budgets
        Budgets in bytes, in place of `curve_budgets`.
    """
    delays = delays or profile
    points = []
    for budget_bytes in budgets or curve_budgets(manifest, count):
        plan = make_plan(manifest, profile, budget_bytes, options)
        reading_ms = plan.streamed_bytes / delays.storage.bytes_per_s * 1e3
        points.append(
            Point(
                budget_bytes=budget_bytes,
                predicted_ms=predict(plan.steps, plan.reads, delays).steady_ms,
                bound_ms=floor_ms(manifest, plan, delays, execution_ms=execution_ms),
                reading_ms=reading_ms,
                streamed_bytes=plan.streamed_bytes,
                resident_bytes=plan.resident_bytes,
            )
        )
    return tuple(points)
