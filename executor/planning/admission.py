"""Resolve a budget to bytes, for a model on this machine."""

from __future__ import annotations

from swapnet.budget import Budget
from swapnet.errors import BudgetError, InputError
from swapnet.executor.planning.auto import auto_bytes
from swapnet.executor.planning.plan import PlanOptions
from swapnet.executor.planning.usage import demand, page_table_bytes
from swapnet.machine import memory_bytes
from swapnet.manifest import Manifest
from swapnet.profile import Profile
from swapnet.units import told_apart

__all__ = ["admitted_bytes", "check_available", "values_too_large"]


def admitted_bytes(
    budget: Budget,
    manifest: Manifest,
    available_bytes: int | None = None,
    *,
    profile: Profile | None = None,
    options: PlanOptions | None = None,
) -> int:
    """Bytes of a budget for a model.

    Parameters
    ----------
    budget, manifest
        The budget and the engine.
    available_bytes
        Upper limit of the budget; by default the machine's memory.
    profile, options
        Delays and restrictions of plans, for the budget ``auto``.

    Raises
    ------
    BudgetError
        The budget is above ``available_bytes``.
    InputError
        The budget is ``auto`` and there are no measured delays.
    """
    if budget.of != "auto" or profile is None:
        return check_available(budget, budget.resolve(demand(manifest)), available_bytes)
    if profile.is_assumed:
        raise InputError(
            "a budget of auto needs measured delays",
            why=f"{manifest.source.name} was not measured on this device",
            hint="measure it: swapnet measure DIR. Or give a size, like 64MiB",
        )
    return check_available(budget, auto_bytes(manifest, profile, options), available_bytes)


def check_available(budget: Budget, budget_bytes: int, available_bytes: int | None = None) -> int:
    """``budget_bytes`` of a budget that was resolved before, checked as in `admitted_bytes`."""
    available = memory_bytes() if available_bytes is None else available_bytes
    if budget_bytes > available:
        raise BudgetError(
            f"a budget of {budget} is more than this machine has",
            why=f"it is {budget_bytes} bytes, there are {available}",
            hint=f"give at most {available >> 20}MiB",
        )
    return budget_bytes


def values_too_large(
    error: BudgetError, wanted_bytes: int, most_bytes: int, budget_bytes: int
) -> BudgetError:
    """Refusal of values whose size depends on data, with a budget that is needed at least.

    Parameters
    ----------
    error
        Refusal by the runtime library.
    wanted_bytes, most_bytes
        Limit of the arena that they need at least, and the largest inside the budget.
    budget_bytes
        The budget.
    """
    more = wanted_bytes - most_bytes
    needed = budget_bytes + more + page_table_bytes(more)
    return BudgetError(
        error.what,
        why=f"they need {wanted_bytes} bytes at least, the budget of {budget_bytes} leaves "
        f"{most_bytes} for them",
        hint=f"give {told_apart(budget_bytes, needed)[1]} or more",
        smallest_bytes=needed,
    )
