"""Changes of the budget while a scenario runs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

import msgspec

from swapnet.errors import InputError
from swapnet.units import parse_size

__all__ = ["BudgetStep", "Change", "changes_of", "parse_steps"]

_SHARE = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)\s*%")


class BudgetStep(msgspec.Struct, frozen=True):
    """Change to another budget, at a share of the whole run.

    Attributes
    ----------
    share
        Fraction of the run, from 0 to 1.
    budget_bytes
        Budget from then on.
    """

    share: float
    budget_bytes: int


class Change(msgspec.Struct, frozen=True, array_like=True):
    """A step inside one round; ``at_s`` counts from its beginning."""

    at_s: float
    budget_bytes: int


def parse_steps(text: str, budget_bytes: int) -> tuple[BudgetStep, ...]:
    """Steps as they are written: ``0.33:50%,0.66:100%``, in percent of the budget, or as sizes.

    Raises
    ------
    InputError
        The steps are invalid, or not in order.
    """
    steps = tuple(_step(part, budget_bytes) for part in text.split(",") if part.strip())
    if any(later.share <= step.share for step, later in pairwise(steps)):
        raise InputError(
            f"{text!r} are not budget steps",
            why="their shares of the run do not grow",
            hint="write them like 0.33:50%,0.66:100%",
        )
    return steps


def _step(text: str, budget_bytes: int) -> BudgetStep:
    share, _, budget = text.strip().partition(":")
    try:
        match = _SHARE.fullmatch(budget.strip())
        nbytes = int(float(match[1]) / 100 * budget_bytes) if match else parse_size(budget)
        step = BudgetStep(float(share), nbytes)
    except (ValueError, InputError):
        step = None
    if step is None or not 0 <= step.share < 1 or step.budget_bytes <= 0:
        raise InputError(
            f"{text!r} is not a budget step",
            why="a step is a share of the run from 0 to 1 and a budget, with a colon between",
            hint="write it like 0.33:50% or 0.5:64MiB",
        )
    return step


def changes_of(
    steps: Sequence[BudgetStep], turn: int, rounds: int, seconds: float
) -> tuple[Change, ...]:
    """The steps that fall into round ``turn``; a round takes ``seconds``."""
    return tuple(
        Change((step.share * rounds - turn) * seconds, step.budget_bytes)
        for step in steps
        if int(step.share * rounds) == turn
    )
