"""Compare two engines of one model, and their outputs; say where a difference comes from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import inf, isfinite
from typing import Literal, get_args

import msgspec
import numpy as np
import numpy.typing as npt

from swapnet.errors import InputError
from swapnet.executor.backends.base import Array
from swapnet.manifest import Manifest
from swapnet.shapes import names_of
from swapnet.tensors import as_dims

__all__ = [
    "ALGORITHMS",
    "DIFFERENCE_LIMIT",
    "Algorithm",
    "Judgement",
    "Rule",
    "check_comparable",
    "in_shape",
    "judge",
    "largest_difference",
    "non_finite_reasons",
    "packing_reasons",
    "rounding",
]

Algorithm = Literal["l0", "l1", "l2", "lInf", "cos", "relative"]
ALGORITHMS: tuple[Algorithm, ...] = get_args(Algorithm)


DIFFERENCE_LIMIT = 1e-3
"""Largest difference that is not worth a warning, relative to the largest output."""


@dataclass(frozen=True)
class Rule:
    """Measure of the difference of two arrays, and its limit.

    Attributes
    ----------
    algorithm
        ``"l0"``: share of values outside ``atol + rtol * |reference|``. ``"l1"``: mean of
        ``|difference|``. ``"l2"``: mean of its square. ``"lInf"``: its maximum. ``"cos"``: 1 less
        the cosine of both. These are those of trtexec (``sampleUtils.cpp``). ``"relative"``:
        the maximum over the largest magnitude of the reference.
    limit
        Largest loss that is allowed.
    atol, rtol
        Absolute and relative tolerance of ``"l0"``.
    """

    algorithm: Algorithm = "l0"
    limit: float = 0.0
    atol: float = 1e-5
    rtol: float = 1e-5

    @classmethod
    def of(
        cls,
        algorithm: str | None = None,
        limit: float | None = None,
        atol: float | None = None,
        rtol: float | None = None,
    ) -> Rule | None:
        """A rule of what a user gave; None where that is nothing.

        Raises
        ------
        InputError
            There is no such algorithm, or a tolerance is given for another one than ``"l0"``.
        """
        if (algorithm, limit, atol, rtol) == (None,) * 4:
            return None
        chosen = next((known for known in ALGORITHMS if known == (algorithm or "l0")), None)
        if chosen is None:
            raise InputError(
                f"there is no algorithm {algorithm!r}",
                why=f"differences are measured by {', '.join(ALGORITHMS)}",
                hint="choose one of them",
            )
        if chosen != "l0" and (atol is not None or rtol is not None):
            raise InputError(
                f"tolerances are not for {chosen}",
                why="they are for the algorithm l0",
                hint="leave them out, or choose l0",
            )
        given = {"limit": limit, "atol": atol, "rtol": rtol}
        return cls(chosen, **{name: value for name, value in given.items() if value is not None})

    def loss(self, found: Array, reference: Array) -> float:
        """The difference of an array from its reference; 0 is equality.

        NaN and infinity equal themselves and differ infinitely from all others. Arrays of two
        shapes differ infinitely too.
        """
        if found.shape != reference.shape:
            return np.inf
        ours, theirs = found.astype(np.float64).ravel(), reference.astype(np.float64).ravel()
        same = (ours == theirs) | (np.isnan(ours) & np.isnan(theirs))
        if same.all():
            return 0.0
        with np.errstate(invalid="ignore", over="ignore"):
            gaps = np.where(same, 0.0, np.abs(ours - theirs))
            gaps = np.nan_to_num(gaps, nan=np.inf, posinf=np.inf)
            magnitude = np.where(np.isfinite(theirs), np.abs(theirs), 0.0)
            if self.algorithm == "l0":
                return float(np.mean(gaps > self.atol + self.rtol * magnitude))
            if self.algorithm == "l1":
                return float(np.mean(gaps))
            if self.algorithm == "l2":
                return float(np.mean(gaps**2))
            if self.algorithm == "cos":
                return _cosine_loss(ours, theirs)
        scale = float(magnitude.max()) if self.algorithm == "relative" else 1.0
        return float(gaps.max()) / (scale or 1.0)


def _cosine_loss(ours: npt.NDArray[np.float64], theirs: npt.NDArray[np.float64]) -> float:
    lengths = float(np.linalg.norm(ours) * np.linalg.norm(theirs))
    cosine = float(ours @ theirs) / lengths if lengths else 0.0
    return 1 - cosine if np.isfinite(cosine) else np.inf


def check_comparable(names: Sequence[str], manifests: Sequence[Manifest]) -> None:
    """Check that two engines were built from one model, and are planned for the same input shapes.

    Raises
    ------
    InputError
        Models or shapes differ.
    """
    sources = [manifest.source for manifest in manifests]
    hashes = [" and of its data ".join(filter(None, (s.sha256, s.data_sha256))) for s in sources]
    if hashes[0] != hashes[1]:
        raise InputError(
            f"{names[0]} and {names[1]} are not engines of one model",
            why=" and ".join(
                f"{s.name} has SHA-256 {found}" for s, found in zip(sources, hashes, strict=True)
            ),
            hint="compare engines that were built from the same file",
        )
    shapes = [manifest.planned_shapes for manifest in manifests]
    if shapes[0] != shapes[1]:
        raise InputError(
            f"{names[0]} and {names[1]} are planned for other input shapes",
            why=f"{shapes[0]} and {shapes[1]}",
            hint="give both the same: --shapes name:1x3x224x224",
        )


def in_shape(references: Mapping[str, Array], outputs: Mapping[str, Array]) -> dict[str, Array]:
    """References in the shapes of outputs: raw bytes of a file have one axis only.

    Raises
    ------
    InputError
        A reference has another number of values than its output.
    """
    shaped = {}
    for name, reference in references.items():
        output = outputs.get(name, reference)
        if reference.size != output.size:
            raise InputError(
                f"reference output {name!r} has the wrong size",
                why=f"it has {reference.nbytes} bytes, the output {as_dims(output.shape)} takes "
                f"{output.nbytes}",
                hint="give the outputs of the same model and shapes",
            )
        shaped[name] = reference.reshape(output.shape)
    return shaped


def largest_difference(
    ours: Mapping[str, Array], theirs: Mapping[str, Array]
) -> tuple[float, float]:
    """Largest difference: absolute, and relative to the largest magnitude of its output.

    NaN on one side only is an infinite difference, and so are two shapes.
    """
    absolute, relative = Rule("lInf"), Rule("relative")
    pairs = [(ours[name], reference) for name, reference in theirs.items()]
    return (
        max((absolute.loss(*pair) for pair in pairs), default=0.0),
        max((relative.loss(*pair) for pair in pairs), default=0.0),
    )


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
