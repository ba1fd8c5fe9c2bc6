"""A budget in bytes, for a model on this machine."""

from __future__ import annotations

from swapnet.budget import Budget
from swapnet.errors import BudgetError
from swapnet.executor.machine import memory_bytes
from swapnet.executor.memory import demand
from swapnet.manifest import Manifest
from swapnet.units import format_size

__all__ = ["admitted_bytes"]


def admitted_bytes(budget: Budget, manifest: Manifest) -> int:
    """What a budget means for a model, if the machine has it.

    Raises
    ------
    BudgetError
        It is more than the machine's memory.
    """
    budget_bytes = budget.resolve(demand(manifest))
    machine = memory_bytes()
    if budget_bytes > machine:
        raise BudgetError(
            f"a budget of {budget} is more than this machine has",
            why=f"it is {budget_bytes} bytes, the machine has {machine}",
            hint=f"give at most {format_size(machine)}",
        )
    return budget_bytes
