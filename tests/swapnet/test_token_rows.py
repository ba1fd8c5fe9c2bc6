"""Which rows of logits a call wants."""

from __future__ import annotations

import numpy as np
import pytest

from swapnet.errors import InputError
from swapnet.input_checks import check_feed
from swapnet.manifest import Tensor
from swapnet.sampling import sample_inputs
from swapnet.token_rows import IDS, ROWS, with_rows

IDS_INPUT = Tensor(IDS, "int64", (1, "n"), 0)
TAKEN = (IDS_INPUT, Tensor(ROWS, "int64", (ROWS,), 0))
CALL = {IDS: np.zeros((1, 3), np.int64)}


@pytest.mark.parametrize(("most", "rows"), [(None, [0, 1, 2]), (2, [1, 2]), (9, [0, 1, 2])])
def test_the_last_tokens_are_wanted(most: int | None, rows: list[int]) -> None:
    planned = {ROWS: (most,)} if most else None
    assert with_rows(CALL, TAKEN, planned)[ROWS].tolist() == rows


def test_what_a_call_says_stays() -> None:
    said = {**CALL, ROWS: np.array([1])}
    assert with_rows(said, TAKEN) is said
    assert with_rows(CALL, [IDS_INPUT]) is CALL


def test_only_rows_may_be_left_out() -> None:
    assert check_feed(CALL, TAKEN, "a sample")[ROWS].tolist() == [0, 1, 2]
    with pytest.raises(InputError, match=IDS):
        check_feed({ROWS: np.array([0])}, TAKEN, "a sample")


def test_seeded_inputs_ask_for_the_last_rows() -> None:
    sample = sample_inputs([(IDS, "int64", (1, 7)), (ROWS, "int64", (2,))], {IDS: 50})
    assert sample[ROWS].tolist() == [5, 6]
