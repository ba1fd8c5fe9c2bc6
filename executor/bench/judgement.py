"""Judge the difference from the unswapped model, and say where it comes from as far as is known."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import isfinite

import msgspec
import numpy as np

from swapnet.executor.backends.base import Array
from swapnet.executor.bench.difference import largest_difference
from swapnet.manifest import Manifest

__all__ = ["DIFFERENCE_LIMIT", "Judgement", "non_finite_reasons", "packing_reasons", "rounding"]

DIFFERENCE_LIMIT = 1e-3
"""Largest difference that is not worth a warning, relative to the largest output."""


class Judgement(msgspec.Struct, frozen=True):
    """The difference of outputs against a limit.

    Attributes
    ----------
    limit
        Largest allowed difference, relative to the largest magnitude of its output.
    is_within
        Whether the difference is finite and not above it.
    reasons
        Reasons that are known, where it is not.
    """

    limit: float
    is_within: bool
    reasons: tuple[str, ...] = ()

    @staticmethod
    def is_enough(difference: float, limit: float) -> bool:
        """Whether a relative difference is allowed."""
        return isfinite(difference) and difference <= limit


def non_finite_reasons(ours: Mapping[str, Array], theirs: Mapping[str, Array]) -> Iterator[str]:
    """Outputs in which other values are infinite or NaN."""
    for name, reference in theirs.items():
        found, expected = (
            int(np.count_nonzero(~np.isfinite(array.astype(np.float64))))
            for array in (ours[name], reference)
        )
        if found != expected:
            yield (
                f"output {name!r} has {found} values that are infinite or NaN, the unswapped "
                f"model's has {expected}"
            )


def rounding(manifest: Manifest) -> Iterator[str]:
    """The precision of an engine, where it is lower than its model's."""
    if manifest.precision != "fp32":
        yield (
            f"the engine was built in {manifest.precision}, and the model is not: "
            "swapnet accuracy says what that costs"
        )


def packing_reasons(
    ours: Mapping[str, Array],
    packed: Mapping[str, Array],
    unpacked: Mapping[str, Array],
    limit: float,
) -> Iterator[str]:
    """The part of packed weights, which the swapped model does not have.

    Parameters
    ----------
    ours, packed, unpacked
        Outputs of the swapped model, and of the unswapped one without and with
        ``session.disable_prepacking``.
    limit
        Largest difference between those two that is no reason.
    """
    _, own = largest_difference(unpacked, packed)
    if not Judgement.is_enough(own, limit):
        _, left = largest_difference(ours, unpacked)
        yield (
            f"ONNX Runtime's own outputs change by {own:.2e} with session.disable_prepacking alone"
            f"; those differ from the swapped model's by {left:.2e}"
        )
