"""Two engines of one model over budgets: which is predicted to be faster where."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from swapnet.errors import InputError
from swapnet.executor.planning.curve import Point, curve, curve_budgets
from swapnet.executor.planning.planner import smallest_budget
from swapnet.manifest import Manifest
from swapnet.profile import Profile
from swapnet.units import format_size

__all__ = ["Comparison", "Lead", "check_comparable", "compare", "crossovers", "verdict"]

_POINTS = 12
"""Budgets of each engine."""

_HALVINGS = 3
"""Of the distance between budgets where the lead changes."""

_TIE = 0.01
"""Predictions that differ by less are equal: the lead does not change."""


@dataclass(frozen=True)
class Lead:
    """From a budget on, to the next lead, one engine is faster.

    Attributes
    ----------
    from_bytes
        The first budget.
    engine
        0 for the first, 1 for the second; None while both are equally fast.
    """

    from_bytes: int
    engine: int | None


@dataclass(frozen=True)
class Comparison:
    """Two engines over the same budgets.

    Attributes
    ----------
    curves
        Of the first and the second; budgets in which one does not run are left out of its own.
    leads
        From the smallest budget on.
    """

    curves: tuple[tuple[Point, ...], tuple[Point, ...]]
    leads: tuple[Lead, ...]

    @property
    def budgets(self) -> tuple[int, ...]:
        """Those of both curves, in bytes."""
        return _budgets(*self.curves)

    def latencies_ms(self, budget_bytes: int) -> tuple[float | None, float | None]:
        """Of both engines at one of the budgets; None for one that does not run in it."""
        first, second = (_latency_ms(points, budget_bytes) for points in self.curves)
        return first, second


def check_comparable(names: Sequence[str], manifests: Sequence[Manifest]) -> None:
    """Whether two engines were built from one model, and run at the same input shapes.

    Raises
    ------
    InputError
        They were not.
    """
    sources = [manifest.source for manifest in manifests]
    if sources[0].sha256 != sources[1].sha256:
        raise InputError(
            f"{names[0]} and {names[1]} are not engines of one model",
            why=" and ".join(f"{s.name} has SHA-256 {s.sha256}" for s in sources),
            hint="compare engines that were built from the same file",
        )
    shapes = [manifest.planned_shapes for manifest in manifests]
    if shapes[0] != shapes[1]:
        raise InputError(
            f"{names[0]} and {names[1]} are planned for other input shapes",
            why=f"{shapes[0]} and {shapes[1]}",
            hint="give both the same: --shapes name:1x3x224x224",
        )


def compare(manifests: Sequence[Manifest], profiles: Sequence[Profile]) -> Comparison:
    """Plan two engines for the budgets of both, and for more of them where the lead changes.

    Parameters
    ----------
    manifests, profiles
        The engines, and the delays that they are planned by.
    """
    smallest = [smallest_budget(manifest)[0] for manifest in manifests]
    budgets = sorted({b for manifest in manifests for b in curve_budgets(manifest, _POINTS)})
    curves: list[tuple[Point, ...]] = [(), ()]
    for _ in range(1 + _HALVINGS):
        for index, (manifest, profile) in enumerate(zip(manifests, profiles, strict=True)):
            fitting = [b for b in budgets if b >= smallest[index]]
            more = curve(manifest, profile, budgets=fitting)
            curves[index] = tuple(sorted((*curves[index], *more), key=lambda p: p.budget_bytes))
        leads = crossovers(*curves)
        known = _budgets(*curves)
        changes = {lead.from_bytes for lead in leads[1:]}.difference(smallest)
        budgets = [
            (low + high) // 2 for low, high in pairwise(known) if high in changes and high - low > 1
        ]
    return Comparison((curves[0], curves[1]), leads)


def crossovers(first: Sequence[Point], second: Sequence[Point]) -> tuple[Lead, ...]:
    """Where the lead changes, beginning with the smallest budget.

    Parameters
    ----------
    first, second
        Curves; an engine loses at budgets that only the other has.
    """
    leads: list[Lead] = []
    for budget_bytes in _budgets(first, second):
        engine = _faster(_latency_ms(first, budget_bytes), _latency_ms(second, budget_bytes))
        if not leads:
            leads.append(Lead(budget_bytes, engine))
        elif leads[-1].engine is None:
            leads[-1] = Lead(leads[-1].from_bytes, engine)
        elif engine not in (None, leads[-1].engine):
            leads.append(Lead(budget_bytes, engine))
    return tuple(leads)


def verdict(names: Sequence[str], leads: Sequence[Lead]) -> str:
    """One line that says which of two engines is faster where."""
    if len(leads) < 2:
        engine = leads[0].engine if leads else None
        if engine is None:
            return f"{names[0]} and {names[1]} are equally fast at every budget"
        return f"{names[engine]} is faster at every budget, {names[1 - engine]} never"
    parts = [
        f"{_named(names, before)}{' is faster' if before is leads[0] else ''} "
        f"below {format_size(after.from_bytes)}"
        for before, after in pairwise(leads)
    ]
    return ", ".join([*parts, f"{_named(names, leads[-1])} above"])


def _named(names: Sequence[str], lead: Lead) -> str:
    return names[lead.engine or 0]


def _budgets(*curves: Sequence[Point]) -> tuple[int, ...]:
    return tuple(sorted({point.budget_bytes for points in curves for point in points}))


def _latency_ms(points: Sequence[Point], budget_bytes: int) -> float | None:
    return next((p.predicted_ms for p in points if p.budget_bytes == budget_bytes), None)


def _faster(first_ms: float | None, second_ms: float | None) -> int | None:
    """Which one is faster by more than a tie; one that does not run loses."""
    if first_ms is None or second_ms is None:
        return int(first_ms is None)
    if abs(first_ms - second_ms) <= _TIE * min(first_ms, second_ms):
        return None
    return int(second_ms < first_ms)
