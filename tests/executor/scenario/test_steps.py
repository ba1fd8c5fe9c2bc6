"""Changes of the budget as they are written, and where in the run they fall."""

from __future__ import annotations

import pytest

from swapnet.errors import InputError
from swapnet.executor.scenario.steps import BudgetStep, Change, changes_of, parse_steps
from tests.executor.scenario.conftest import MIB


def test_shares_and_sizes() -> None:
    steps = parse_steps("0.25:50%, 0.5:96MiB,", 64 * MIB)
    assert steps == (BudgetStep(0.25, 32 * MIB), BudgetStep(0.5, 96 * MIB))
    assert parse_steps("", 64 * MIB) == ()


@pytest.mark.parametrize(
    "text", ["0.5", "0.5:", "x:50%", ":50%", "1:50%", "-0.1:50%", "nan:50%", "0.5:0%", "0.5:lots"]
)
def test_what_is_no_step(text: str) -> None:
    with pytest.raises(InputError, match="is not a budget step"):
        parse_steps(text, 64 * MIB)


def test_steps_go_forward() -> None:
    with pytest.raises(InputError, match="are not budget steps"):
        parse_steps("0.5:50%,0.25:100%", 64 * MIB)


def test_each_step_falls_into_one_round() -> None:
    steps = (BudgetStep(0.0, 3), BudgetStep(0.375, 1), BudgetStep(0.5, 2))
    rounds = [changes_of(steps, turn, 4, 10.0) for turn in range(4)]
    assert rounds == [(Change(0.0, 3),), (Change(5.0, 1),), (Change(0.0, 2),), ()]
