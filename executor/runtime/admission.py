"""Limits of a runtime's budget, and of the models in it."""

from __future__ import annotations

from collections.abc import Sequence

from swapnet.budget import Budget
from swapnet.errors import BudgetError, InputError
from swapnet.executor.planning.admission import check_available
from swapnet.units import format_size, rounded_up

__all__ = ["budget_bytes", "too_small"]


def budget_bytes(budget: Budget | str | int) -> int:
    """A budget for models that come and go, in bytes.

    Raises
    ------
    InputError
        The budget is invalid, or a share of a demand.
    BudgetError
        The budget is more than the machine has.
    """
    parsed = Budget.parse(budget)
    if parsed.of != "bytes":
        raise InputError(
            f"a budget of {parsed} is not for several models",
            why="a share of their demand changes whenever one is loaded or unloaded",
            hint="give a size like 256MiB",
        )
    return check_available(parsed, int(parsed.amount))


def too_small(names: Sequence[str], smallest_bytes: int, budget_bytes: int) -> BudgetError:
    """Models that do not fit together."""

    return BudgetError(
        f"{', '.join(names)} do not fit in {format_size(budget_bytes)} together",
        why=f"they need {smallest_bytes} bytes, the budget allows {budget_bytes}",
        hint=f"give at least {rounded_up(smallest_bytes)}, or unload one",
        smallest_bytes=smallest_bytes,
    )
