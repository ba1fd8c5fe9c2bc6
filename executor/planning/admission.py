"""A budget in bytes, for a model on this machine."""

from __future__ import annotations

from swapnet.budget import Budget
from swapnet.errors import BudgetError
from swapnet.executor.planning.usage import demand
from swapnet.machine import memory_bytes
from swapnet.manifest import Manifest
from swapnet.units import format_size

__all__ = ["admitted_bytes", "check_available"]


def admitted_bytes(budget: Budget, manifest: Manifest, available_bytes: int | None = None) -> int:
    """What a budget means for a model, if there is so much.

    Parameters
    ----------
    budget, manifest
        What is asked for, by which engine.
    available_bytes
        What there is: by default the machine's memory.

    Raises
    ------
    BudgetError
        It is more than that.
    """
    return check_available(budget, budget.resolve(demand(manifest)), available_bytes)


def check_available(budget: Budget, budget_bytes: int, available_bytes: int | None = None) -> int:
    """The bytes that a budget was found to be, if there is so much; see `admitted_bytes`."""
    available = memory_bytes() if available_bytes is None else available_bytes
    if budget_bytes > available:
        raise BudgetError(
            f"a budget of {budget} is more than this machine has",
            why=f"it is {budget_bytes} bytes, there are {available}",
            hint=f"give at most {format_size(available)}",
        )
    return budget_bytes
