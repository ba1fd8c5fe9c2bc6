"""Divide a budget: scratch memory that all engines share, and a share for the weights of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from swapnet.executor.runtime.admission import too_small
from swapnet.executor.runtime.engine_curve import EngineCurve
from swapnet.executor.runtime.memory import (
    most_scratch_bytes,
    other_bytes,
    scratch_bytes,
    smallest_bytes,
    stripings_within,
)
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
    engines
        The engines, with as few blocks in strips as the budget allows.
    """

    limit_bytes: int
    shares_bytes: Mapping[str, int]
    engines: Mapping[str, EngineCurve] = field(default_factory=dict)


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
    stripings = stripings_within(manifests, budget_bytes, lanes=lanes)
    smallest = smallest_bytes(manifests, stripings, lanes=lanes)
    if smallest > budget_bytes:
        raise too_small(tuple(engines), smallest, budget_bytes)
    most = most_scratch_bytes(manifests, budget_bytes, stripings, lanes=lanes)
    limit = max(scratch_bytes(manifests, stripings, lanes=lanes), min(least_scratch_bytes, most))
    pairs = zip(engines.items(), stripings, strict=True)
    cut = {name: engine.in_strips(striping) for (name, engine), striping in pairs}
    available = budget_bytes - other_bytes(manifests, limit, stripings, lanes=lanes)
    return Division(limit, rule.shares_bytes(claims_of(cut, objectives), available), cut)


def claims_of(
    engines: Mapping[str, EngineCurve], objectives: Mapping[str, Objectives]
) -> list[Claim]:
    """Claims of engines to the memory for weights."""
    return [engine.claim(name, objectives[name]) for name, engine in engines.items()]
