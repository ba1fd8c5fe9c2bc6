"""Judge the difference from reference outputs, and say where it comes from as far as is known."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import inf, isfinite

import msgspec
import numpy as np

from swapnet.errors import InputError
from swapnet.executor.backends.base import Array
from swapnet.executor.bench.difference import Algorithm, Rule, largest_difference
from swapnet.manifest import Manifest
from swapnet.shapes import names_of

__all__ = [
    "DIFFERENCE_LIMIT",
    "Judgement",
    "judge",
    "non_finite_reasons",
    "packing_reasons",
    "rounding",
]

DIFFERENCE_LIMIT = 1e-3
"""Largest difference that is not worth a warning, relative to the largest output."""


class Judgement(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The difference of outputs from a reference, against a limit.

    Attributes
    ----------
    limit
        Largest allowed loss.
    is_within
        Whether no loss is above it.
    reasons
        Reasons that are known, where one is.
    algorithm
        Measure of the difference, see `Rule`.
    losses
        Difference of each output; None where it is infinite.
    """

    limit: float
    is_within: bool
    reasons: tuple[str, ...] = ()
    algorithm: Algorithm = "relative"
    losses: dict[str, float | None] = {}

    @property
    def largest(self) -> float:
        """The largest loss."""
        return max((inf if loss is None else loss for loss in self.losses.values()), default=0.0)


def judge(ours: Mapping[str, Array], references: Mapping[str, Array], rule: Rule) -> Judgement:
    """The difference of outputs from all references, by a rule.

    Raises
    ------
    InputError
        A reference is for no output.
    """
    for name in references.keys() - ours.keys():
        raise InputError(
            f"reference output {name!r} is unknown",
            why=f"the model gives {names_of(ours)}",
            hint="correct the name",
        )
    losses = {name: rule.loss(ours[name], array) for name, array in references.items()}
    return Judgement(
        limit=rule.limit,
        is_within=all(loss <= rule.limit for loss in losses.values()),
        algorithm=rule.algorithm,
        losses={name: loss if isfinite(loss) else None for name, loss in losses.items()},
    )


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
    if own > limit:
        _, left = largest_difference(ours, unpacked)
        yield (
            f"ONNX Runtime's own outputs change by {own:.2e} with session.disable_prepacking alone"
            f"; those differ from the swapped model's by {left:.2e}"
        )
