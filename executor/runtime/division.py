"""Divide a budget: scratch memory that all engines share, and a share for the weights of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from swapnet.executor.runtime.admission import too_small
from swapnet.executor.runtime.engine_curve import EngineCurve
from swapnet.executor.runtime.memory import most_scratch_bytes, other_bytes, scratch_bytes
from swapnet.executor.runtime.objectives import Objectives
from swapnet.executor.runtime.share_rules import ShareRule
from swapnet.executor.runtime.split import Claim

__all__ = ["Division", "claims_of", "divide"]


@dataclass(frozen=True)
class Division:
    """Parts of a budget.

    Attributes
    ----------
    limit_bytes
        Limit of the scratch memory: the largest that a plan needs, or more.
    shares_bytes
        Memory for the weights of each engine, by name.
    """

    limit_bytes: int
    shares_bytes: Mapping[str, int]


def divide(
    rule: ShareRule,
    engines: Mapping[str, EngineCurve],
    objectives: Mapping[str, Objectives],
    budget_bytes: int,
    *,
    lanes: int = 1,
    least_scratch_bytes: int = 0,
) -> Division:
    """The division of a budget by a rule.

    Parameters
    ----------
    rule
        How memory for weights is shared.
    engines, objectives
        Engines, and what is expected of them, by name.
    budget_bytes
        Memory of all together.
    lanes
        Steps that are executed at the same moment.
    least_scratch_bytes
        Scratch memory at least, as far as weights can give it.

    Raises
    ------
    BudgetError
        The budget is too small for all of them.
    """
    if not engines:
        return Division(0, {})
    manifests = [engine.engine.manifest for engine in engines.values()]
    least = min(least_scratch_bytes, most_scratch_bytes(manifests, budget_bytes, lanes=lanes))
    limit = max(scratch_bytes(manifests, lanes=lanes), least)
    claims = claims_of(engines, objectives)
    available = budget_bytes - other_bytes(manifests, limit, lanes=lanes)
    needed = sum(min(option.nbytes for option in claim.options) for claim in claims)
    if needed > available:
        smallest = budget_bytes - available + needed
        have_strips = any(manifest.stripings for manifest in manifests)
        raise too_small(tuple(engines), smallest, budget_bytes, have_strips=have_strips)
    return Division(limit, rule.shares_bytes(claims, available))


def claims_of(
    engines: Mapping[str, EngineCurve], objectives: Mapping[str, Objectives]
) -> list[Claim]:
    """Claims of engines to the memory for weights."""
    return [engine.claim(name, objectives[name]) for name, engine in engines.items()]
