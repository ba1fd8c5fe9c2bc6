"""Divide a budget: scratch memory that all engines share, and a share for the weights of each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from swapnet.executor.runtime.admission import too_small
from swapnet.executor.runtime.engine_curve import EngineCurve
from swapnet.executor.runtime.memory import (
    merging,
    most_scratch_bytes,
    other_bytes,
    scratch_bytes,
)
from swapnet.executor.runtime.objectives import Objectives
from swapnet.executor.runtime.share_rules import ShareRule
from swapnet.executor.runtime.split import Claim

__all__ = ["Division", "Terms", "claims_of", "divide"]


class Terms(NamedTuple):
    """Terms of one engine's plan.

    Attributes
    ----------
    share_bytes
        Memory for its weights.
    merged
        True where its steps may have several blocks, which takes more scratch memory.
    """

    share_bytes: int
    merged: bool


@dataclass(frozen=True)
class Division:
    """Parts of a budget.

    Attributes
    ----------
    limit_bytes
        Limit of the scratch memory: the largest that a plan needs, or more.
    terms
        Terms of the plans, by name.
    """

    limit_bytes: int
    terms: Mapping[str, Terms]


def divide(
    rule: ShareRule,
    engines: Mapping[str, EngineCurve],
    objectives: Mapping[str, Objectives],
    budget_bytes: int,
    *,
    lanes: int = 1,
    least_scratch_bytes: int = 0,
) -> Division:
    """The division with the lowest cost among the two limits of scratch memory.

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
    least = min(least_scratch_bytes, most_scratch_bytes(manifests, budget_bytes))
    possible: list[tuple[Division, Callable[[], float]]] = []
    limits = {scratch_bytes(manifests, lanes=lanes, merged=merged) for merged in (False, True)}
    for limit in sorted({max(limit, least) for limit in limits}):
        merged = dict(zip(engines, merging(manifests, limit, lanes=lanes), strict=True))
        claims = claims_of(engines, objectives, merged)
        available = budget_bytes - other_bytes(manifests, limit)
        needed = rule.needed_bytes(claims)
        if needed <= available:
            shares = rule.shares_bytes(claims, available)
            terms = {name: Terms(share, merged[name]) for name, share in shares.items()}
            possible.append((Division(limit, terms), partial(rule.cost, claims, shares)))
        elif not possible:
            raise too_small(tuple(engines), budget_bytes - available + needed, budget_bytes)
    if len(possible) == 1:
        return possible[0][0]
    # Of equal costs the larger limit: fewer sessions.
    return min(reversed(possible), key=lambda each: each[1]())[0]


def claims_of(
    engines: Mapping[str, EngineCurve],
    objectives: Mapping[str, Objectives],
    merged: Mapping[str, bool],
) -> list[Claim]:
    """Claims of engines; ``merged`` names those whose steps may have several blocks."""
    return [
        engine.claim(name, objectives[name], merged=merged[name])
        for name, engine in engines.items()
    ]
