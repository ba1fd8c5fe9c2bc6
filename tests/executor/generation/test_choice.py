"""Tokens that are chosen from logits."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from swapnet.errors import InputError
from swapnet.executor.generation.choice import chooser

LOGITS = np.log(np.array([0.1, 0.4, 0.2, 0.3], np.float32))


def shares(count: int = 4000, **options: Any) -> dict[int, float]:
    choose = chooser(seed=5, **options)
    counted = Counter(choose(LOGITS) for _ in range(count))
    return {token: number / count for token, number in counted.items()}


def test_without_a_temperature_the_likeliest_token_is_taken() -> None:
    assert chooser(top_k=3, seed=1)(LOGITS) == 1


def test_tokens_come_with_their_probabilities() -> None:
    found = shares(temperature=1.0)
    assert found == pytest.approx({0: 0.1, 1: 0.4, 2: 0.2, 3: 0.3}, abs=0.03)


def test_a_lower_temperature_prefers_the_likeliest() -> None:
    assert shares(temperature=0.5)[1] == pytest.approx(0.16 / 0.30, abs=0.03)


def test_top_k_leaves_the_likeliest_tokens() -> None:
    assert shares(temperature=1.0, top_k=2) == pytest.approx({1: 4 / 7, 3: 3 / 7}, abs=0.03)


@pytest.mark.parametrize(("top_p", "left"), [(0.39, {1}), (0.41, {1, 3}), (0.95, {0, 1, 2, 3})])
def test_top_p_leaves_tokens_that_reach_the_probability(top_p: float, left: set[int]) -> None:
    assert shares(temperature=1.0, top_p=top_p).keys() == left


def test_a_seed_gives_the_same_tokens_again() -> None:
    first, second = (chooser(temperature=2.0, seed=9) for _ in range(2))
    assert [first(LOGITS) for _ in range(50)] == [second(LOGITS) for _ in range(50)]


@pytest.mark.parametrize(
    "options", [{"temperature": -1.0}, {"top_k": -1}, {"top_p": 0.0}, {"top_p": 1.1}, {"seed": -1}]
)
def test_numbers_outside_of_their_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(options))):
        chooser(**options)
