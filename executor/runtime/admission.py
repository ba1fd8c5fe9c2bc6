"""Limits of a runtime's budget, and of the models in it."""

from __future__ import annotations

from collections.abc import Sequence

from swapnet.budget import Budget
from swapnet.errors import BudgetError, InputError
from swapnet.executor.planning.admission import check_available
from swapnet.units import told_apart

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
            why="it is chosen by the measured delays of one engine"
            if parsed.of == "auto"
            else "a share of their demand changes whenever one is loaded or unloaded",
            hint="give a size like 256MiB",
        )
    return check_available(parsed, int(parsed.amount))


def too_small(names: Sequence[str], smallest_bytes: int, budget_bytes: int) -> BudgetError:
    """Refusal of models that do not fit together."""
    size, needed = told_apart(budget_bytes, smallest_bytes)
    are_several = len(names) > 1
    what = f"do not fit in {size} together" if are_several else f"does not fit in {size}"
    need = f"{'they need' if are_several else 'it needs'} {smallest_bytes} bytes"
    return BudgetError(
        f"{', '.join(names)} {what}",
        why=f"{need}; the budget allows {budget_bytes}",
        hint=f"give at least {needed}" + ", or unload one" * are_several,
        smallest_bytes=smallest_bytes,
    )
