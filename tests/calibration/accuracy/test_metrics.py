"""Numbers that say how far values are apart."""

from __future__ import annotations

from math import log10

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from swapnet.calibration.accuracy.metrics import (
    LARGEST_DB,
    clear_rows,
    cosines,
    error_of,
    nearest,
    spearman,
    top_classes,
)

VALUES = arrays(np.float32, (2, 3), elements=st.floats(-1e3, 1e3, width=32))


def test_a_known_error() -> None:
    error = error_of(np.array([3.0, -4.0], np.float32), np.array([3.0, -3.5], np.float16))
    assert (error.signal, error.noise, error.largest) == (25.0, 0.25, 4.0)
    assert (error.max_abs_error, error.max_rel_error) == (0.5, 0.125)
    assert error.snr_db == pytest.approx(20.0)
    assert error.noise_to_signal == pytest.approx(0.01)


def test_nothing_differs() -> None:
    values = np.array([1.0, np.nan, -np.inf])
    error = error_of(values, values)
    assert error.snr_db is None
    assert (error.noise_to_signal, error.not_finite) == (0.0, 0)


def test_what_is_lost_counts_as_its_magnitude() -> None:
    error = error_of(np.array([2.0, 1.0, np.inf]), np.array([np.nan, 1.0, 5.0]))
    assert (error.not_finite, error.noise, error.max_abs_error) == (2, 4.0, 2.0)
    assert error.snr_db == pytest.approx(10 * log10(5 / 4))


def test_ratios_are_bounded() -> None:
    assert error_of(np.zeros(2), np.ones(2)).snr_db == -LARGEST_DB
    assert error_of(np.zeros(2), np.ones(2)).max_rel_error == 1.0
    tiny = error_of(np.array([1e100]), np.array([1e100 * (1 + 1e-15)]))
    assert tiny.snr_db is not None
    assert tiny.snr_db <= LARGEST_DB


def test_nothing_is_no_error() -> None:
    assert error_of(np.zeros((0, 3)), np.zeros((0, 3))).snr_db is None


@given(VALUES, VALUES)
def test_samples_add_up(reference: NDArray[np.float32], found: NDArray[np.float32]) -> None:
    whole = error_of(reference, found)
    parts = error_of(reference[0], found[0]) + error_of(reference[1], found[1])
    assert parts.noise == pytest.approx(whole.noise)
    assert parts.signal == pytest.approx(whole.signal)
    assert parts.max_abs_error == whole.max_abs_error


def test_best_classes() -> None:
    reference = np.eye(7)[[0, 1, 2]]
    found = np.array([[9, 0, 0, 0, 0, 0, 0], [9, 8, 0, 0, 0, 0, 0], [9, 8, 1, 7, 6, 5, 4]], float)
    assert top_classes(reference, found, count=1) == 1
    assert top_classes(reference, found, count=5) == 2


def test_nan_is_no_best_class() -> None:
    assert top_classes(np.array([[0.0, 1.0]]), np.array([[np.nan, -5.0]]), count=1) == 1


def test_cosines_of_rows() -> None:
    one = np.array([[1.0, 0.0], [2.0, 0.0], [0.0, 0.0]], np.float32)
    other = np.array([[5.0, 0.0], [1.0, 1.0], [1.0, 0.0]], np.float32)
    assert cosines(one, other) == pytest.approx([1.0, 0.5**0.5, 0.0])


def test_nearest_is_another_row() -> None:
    rows = np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]])
    assert nearest(rows).tolist() == [1, 0, 1]


def test_rank_correlation() -> None:
    random = np.random.default_rng(0)
    rows = random.standard_normal((6, 4))
    assert spearman(rows, rows * 3) == pytest.approx(1.0)
    assert spearman(rows, random.standard_normal((6, 4))) < 0.9
    same = np.ones((3, 2))
    assert spearman(same, same) == 1.0


def test_equal_similarities_share_a_rank() -> None:
    reference = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    found = np.array([[1.0, 0.0], [0.0, 1.0], [0.8, 0.6]])
    # Pairs are 0, 1 and 0 similar against 0, 0.8 and 0.6: ranks 0.5, 2, 0.5 and 0, 2, 1.
    assert spearman(reference, found) == pytest.approx(0.75**0.5)


def test_clear_rows_of_probabilities_and_of_logits() -> None:
    assert clear_rows(np.array([[0.5, 0.3, 0.2], [0.49, 0.31, 0.2]])).tolist() == [True, False]
    assert clear_rows(np.log([[5.0, 3.0, 2.0], [4.9, 3.1, 2.0]])).tolist() == [True, False]
    assert clear_rows(np.array([[800.0, -900.0], [np.nan, 1.0], [np.inf, 0.0]])).tolist() == [
        *(True, False, False)
    ]
