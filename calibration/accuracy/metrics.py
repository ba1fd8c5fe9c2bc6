"""Differences between two models' values, as numbers that can be compared between models."""

from __future__ import annotations

from dataclasses import dataclass
from math import log10, sqrt

import numpy as np
import numpy.typing as npt

from swapnet.arrays import Array

__all__ = [
    "LARGEST_DB",
    "Error",
    "clear_rows",
    "cosines",
    "error_of",
    "nearest",
    "spearman",
    "top_classes",
]

Floats = npt.NDArray[np.float64]

LARGEST_DB = 200.0
"""Bound of reported ratios, and minus it."""

_CLEAR = 0.5
_SUM_TOLERANCE = 1e-3
"""Allowed deviation of the sum of probabilities from 1."""


@dataclass(frozen=True)
class Error:
    """Sums over the elements of one value; adding two gives the sums of both together.

    Attributes
    ----------
    signal, noise
        Sum of the reference's squares, and of the squared differences.
    largest, max_abs_error
        Largest magnitude of the reference, and largest difference.
    not_finite
        Elements that are finite in one model only; each counts as a difference of the reference's
        magnitude.
    """

    signal: float = 0.0
    noise: float = 0.0
    largest: float = 0.0
    max_abs_error: float = 0.0
    not_finite: int = 0

    def __add__(self, other: Error) -> Error:
        return Error(
            self.signal + other.signal,
            self.noise + other.noise,
            max(self.largest, other.largest),
            max(self.max_abs_error, other.max_abs_error),
            self.not_finite + other.not_finite,
        )

    @property
    def snr_db(self) -> float | None:
        """Signal-to-noise ratio, ``10 log10(signal / noise)``; None where nothing differs."""
        if not self.noise:
            return None
        ratio = self.signal / self.noise
        return max(min(10 * log10(ratio), LARGEST_DB), -LARGEST_DB) if ratio else -LARGEST_DB

    @property
    def noise_to_signal(self) -> float:
        """Noise over signal, 0 where nothing differs."""
        snr = self.snr_db
        return 0.0 if snr is None else 10 ** (-snr / 10)

    @property
    def max_rel_error(self) -> float:
        """Largest difference over the reference's largest magnitude."""
        return self.max_abs_error / self.largest if self.largest else self.max_abs_error


def error_of(reference: Array, found: Array) -> Error:
    """Compare two arrays of one shape, of any real element types."""
    expected = np.asarray(reference).astype(np.float64).ravel()
    given = np.asarray(found).astype(np.float64).ravel()
    finite = np.isfinite(expected)
    alike = (expected == given) | (np.isnan(expected) & np.isnan(given))
    lost = ~alike & ~(finite & np.isfinite(given))
    magnitudes = np.abs(np.where(finite, expected, 0.0))
    with np.errstate(invalid="ignore"):
        gaps = np.where(alike, 0.0, np.where(lost, magnitudes, np.abs(given - expected)))
    return Error(
        signal=float(np.dot(magnitudes, magnitudes)),
        noise=float(np.dot(gaps, gaps)),
        largest=float(magnitudes.max(initial=0.0)),
        max_abs_error=float(gaps.max(initial=0.0)),
        not_finite=int(np.count_nonzero(lost)),
    )


def top_classes(reference: Array, found: Array, *, count: int) -> int:
    """Number of rows with the reference's best class among the ``count`` best that were found.

    ``reference`` and ``found`` are scores, (N, classes).
    """
    best = np.argmax(reference, axis=1)
    scores = np.where(np.isnan(np.asarray(found, np.float64)), -np.inf, found)
    ranked = np.argsort(-scores, axis=1, kind="stable")[:, :count]
    return int(np.count_nonzero((ranked == best[:, None]).any(axis=1)))


def clear_rows(scores: Array) -> npt.NDArray[np.bool_]:
    """Rows with a best class of probability one half or more.

    Parameters
    ----------
    scores
        (N, classes): probabilities if all are at least 0 and each row sums to 1, else logarithms of
        values proportional to them.
    """
    rows = np.asarray(scores, np.float64)
    if (rows < 0).any() or (np.abs(rows.sum(axis=1) - 1) > _SUM_TOLERANCE).any():
        with np.errstate(invalid="ignore"):
            powers = np.exp(rows - rows.max(axis=1, keepdims=True))
        rows = powers / powers.sum(axis=1, keepdims=True)
    clear: npt.NDArray[np.bool_] = rows.max(axis=1) >= _CLEAR
    return clear


def cosines(reference: Array, found: Array) -> Floats:
    """Cosine of each row (N, features) with its counterpart; 0 where one of them has no length."""
    products: Floats = (_unit(reference) * _unit(found)).sum(axis=1)
    return products


def nearest(embeddings: Array) -> npt.NDArray[np.intp]:
    """Index of the other row that each row (N, features) is most similar to; N is at least 2."""
    similar = _similarities(embeddings)
    np.fill_diagonal(similar, -np.inf)
    found: npt.NDArray[np.intp] = np.argmax(similar, axis=1)
    return found


def spearman(reference: Array, found: Array) -> float:
    """Rank correlation of the cosines of all pairs of rows (N, features), N at least 2.

    1 where all pairs of both are equally similar.
    """
    pairs = np.triu_indices(len(reference), 1)
    one, other = (_ranks(_similarities(rows)[pairs]) for rows in (reference, found))
    one, other = one - one.mean(), other - other.mean()
    spread = sqrt(float(np.dot(one, one)) * float(np.dot(other, other)))
    return float(np.dot(one, other)) / spread if spread else float(np.array_equal(one, other))


def _similarities(embeddings: Array) -> Floats:
    rows = _unit(embeddings)
    products: Floats = rows @ rows.T
    return products


def _unit(rows: Array) -> Floats:
    values = np.nan_to_num(np.asarray(rows).astype(np.float64), posinf=0.0, neginf=0.0)
    lengths = np.linalg.norm(values, axis=1, keepdims=True)
    scaled: Floats = values / np.where(lengths > 0, lengths, 1.0)
    return scaled


def _ranks(values: Floats) -> Floats:
    """Ranks from 0; equal values share the mean of theirs."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    means: Floats = last - (counts + 1) / 2
    return means[inverse.ravel()]
