from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swapnet.budget import Budget, Demand
from swapnet.errors import InputError

DEMAND = Demand(weights_bytes=1000, other_bytes=200, smallest_bytes=270)


@pytest.mark.parametrize(
    ("value", "nbytes"),
    [
        *(("64MiB", 64 << 20), (4096, 4096), ("100", 100)),
        *(("25%", 300), ("100%", 1200), ("12.5 %", 150)),
        *(("weights:25%", 450), ("weights: 43%", 630), ("weights:100%", 1200)),
        *(("weights:0%", 270), ("weights:0.0 %", 270), ("200%", 2400)),
    ],
)
def test_resolves_against_the_demand(value: str | int, nbytes: int) -> None:
    assert Budget.parse(value).resolve(DEMAND) == nbytes


@pytest.mark.parametrize("text", ["", "lots", "weights:64MiB", "25%%", "weight:25%", "-3%", "nan%"])
def test_refuses_what_is_no_budget(text: str) -> None:
    with pytest.raises(InputError, match="is not a budget") as caught:
        Budget.parse(text)
    assert "weights:25% or auto" in caught.value.hint


@pytest.mark.parametrize("value", [0, -4096, "0", "0%", "0MiB"])
def test_refuses_nothing(value: str | int) -> None:
    with pytest.raises(InputError, match="must be above 0"):
        Budget.parse(value)


@pytest.mark.parametrize(
    "text", ["64MiB", "1.5GiB", "25%", "weights:25%", "weights:12.5%", "weights:0%"]
)
def test_prints_as_it_is_written(text: str) -> None:
    budget = Budget.parse(text)
    assert str(budget) == text
    assert Budget.parse(budget) is budget


def test_auto_is_resolved_with_delays_only() -> None:
    budget = Budget.parse(" auto ")
    assert (str(budget), budget.of) == ("auto", "auto")
    with pytest.raises(InputError, match="a budget of auto is not for this") as caught:
        budget.resolve(DEMAND)
    assert "64MiB" in caught.value.hint


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 400).map(lambda quarter: quarter / 4), st.sampled_from(["", "weights:"]))
def test_shares_survive_printing(percent: float, prefix: str) -> None:
    budget = Budget.parse(f"{prefix}{percent}%")
    assert Budget.parse(str(budget)) == budget
