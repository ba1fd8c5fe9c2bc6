"""The budget ``auto``: the smallest at which waits for storage and strips do not matter."""

from __future__ import annotations

from swapnet.executor.planning.plan import Plan, PlanOptions
from swapnet.executor.planning.planner import make_plan, smallest_budget
from swapnet.executor.planning.timeline import Delays, predict
from swapnet.executor.planning.usage import demand
from swapnet.manifest import Manifest
from swapnet.profile import Profile

__all__ = ["LARGEST_STALL", "auto_bytes", "auto_words", "predicted_loss", "predicted_stall"]

LARGEST_STALL = 0.05
"""Share of the latency up to which waiting for storage, or computing in strips, does not matter."""

_SEARCHED = 6
"""Plans that are made to find a budget: it is found to a 64th of the range."""


def predicted_stall(plan: Plan, delays: Profile) -> float:
    """Share of a plan's latency that waits for storage, as predicted."""
    timeline = predict(plan.steps, plan.reads, delays)
    return sum(timeline.stalls_ms) / timeline.steady_ms if timeline.steady_ms else 0.0


def predicted_loss(plan: Plan, delays: Profile) -> float:
    """Share of a plan's latency that waits for storage or is added by strips, as predicted."""
    steps = [step for step in plan.steps if step.strips is not None]
    runs = dict.fromkeys(step.strips for step in steps if step.strips is not None)
    whole, parted = Delays(delays), Delays(delays, strips=runs)
    added_ms = sum(parted.step(step.first, step.last)[0] for step in steps)
    added_ms -= sum(whole.step(run.first, run.last)[0] for run in runs)
    latency_ms = predict(plan.steps, plan.reads, delays).steady_ms
    return predicted_stall(plan, delays) + (added_ms / latency_ms if latency_ms else 0.0)


def auto_bytes(
    manifest: Manifest,
    profile: Profile,
    options: PlanOptions | None = None,
    *,
    delays: Profile | None = None,
    above_bytes: int = 0,
) -> int:
    """The smallest budget found whose plan is predicted to lose at most `LARGEST_STALL`.

    It is that of the whole model where no smaller one does.

    Parameters
    ----------
    manifest, profile
        The engine, and the delays that plans are made with.
    options
        Restrictions of the plans.
    delays
        Delays of another hour for the prediction; by default ``profile``.
    above_bytes
        A budget that is known to be too small.
    """

    def is_enough(budget_bytes: int) -> bool:
        plan = make_plan(manifest, profile, budget_bytes, options)
        return predicted_loss(plan, delays or profile) <= LARGEST_STALL

    low = max(above_bytes, smallest_budget(manifest)[0])
    high = max(demand(manifest).total_bytes, low)
    if not above_bytes and is_enough(low):
        return low
    for _ in range(_SEARCHED):
        middle = (low + high) // 2
        if is_enough(middle):
            high = middle
        else:
            low = middle
    return high


def auto_words(budget_bytes: int, demand_bytes: int) -> str:
    """The reason of `auto_bytes`."""
    share = f"{LARGEST_STALL:.0%} of the time to storage and strips"
    if budget_bytes >= demand_bytes:
        return f"auto: all of it, as less is predicted to lose over {share}"
    return f"auto: the smallest found that is predicted to lose at most {share}"
