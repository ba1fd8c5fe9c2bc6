"""Result of a comparison: schema ``swapnet-accuracy/1``."""

from __future__ import annotations

from typing import Literal

import msgspec

__all__ = [
    "AccuracyReport",
    "Classes",
    "Embeddings",
    "LayerAccuracy",
    "OutputAccuracy",
    "summary",
]


class Classes(msgspec.Struct, frozen=True):
    """Kept answers of a classifier: shares from 0 to 1.

    Attributes
    ----------
    rows
        Number of classified rows.
    top1, top5
        Rows with the reference's best class as the best one found, and among the five best.
    clear, clear_top1
        Number of rows with a best class of probability one half or more in the reference, and the
        ``top1`` of these; None where there are none.
    """

    rows: int
    top1: float
    top5: float
    clear: int = 0
    clear_top1: float | None = None


class Embeddings(msgspec.Struct, frozen=True):
    """Kept answers of an encoder.

    Attributes
    ----------
    rows
        Number of encoded rows.
    cosine_mean, cosine_min
        Cosine of a row and its reference.
    nearest_kept
        Share of the rows with the same nearest other row; None for a single row.
    spearman
        Rank correlation of the similarities of all pairs; None for a single row.
    """

    rows: int
    cosine_mean: float
    cosine_min: float
    nearest_kept: float | None
    spearman: float | None


class OutputAccuracy(msgspec.Struct, frozen=True, kw_only=True):
    """One output over all samples.

    Attributes
    ----------
    snr_db
        Signal-to-noise ratio, between -200 and 200; None where nothing differs.
    max_abs_error, max_rel_error
        Largest difference, and the same over the reference's largest magnitude.
    not_finite
        Elements that are NaN or infinite in one of the models only.
    within_tolerance
        Samples with all elements within the tolerance.
    classes, embeddings
        Kept answers, where the meaning of the output is known.
    """

    name: str
    snr_db: float | None
    max_abs_error: float
    max_rel_error: float
    not_finite: int
    within_tolerance: int
    classes: Classes | None = None
    embeddings: Embeddings | None = None


class LayerAccuracy(msgspec.Struct, frozen=True, kw_only=True):
    """One value between operators.

    Attributes
    ----------
    operator, kind
        Operator that writes the value; of several that became one, the first that can be excluded.
    snr_db
        Signal-to-noise ratio of the value: all error up to here; None where nothing differs.
    own_noise
        Noise over signal that is added here: the value's, less the largest of the values that the
        operator reads; at least 0.
    excludable
        Whether the operator is in lower precision.
    """

    value: str
    operator: str
    kind: str
    snr_db: float | None
    own_noise: float
    excludable: bool


class AccuracyReport(msgspec.Struct, frozen=True, kw_only=True):
    """A candidate against its reference; keys of the schema ``swapnet-accuracy/1``.

    Attributes
    ----------
    tolerance
        Allowed difference, over the reference's largest magnitude in the sample.
    layers, layer_samples
        Layers in the order of execution, and number of samples that they are compared on; empty
        where not asked for.
    suggested
        Operators to exclude, the worst first.
    """

    schema: Literal["swapnet-accuracy/1"] = "swapnet-accuracy/1"
    reference: str
    candidate: str
    data: str
    samples: int
    tolerance: float
    outputs: list[OutputAccuracy]
    layers: list[LayerAccuracy] = []
    layer_samples: int = 0
    suggested: list[str] = []


def summary(output: OutputAccuracy) -> str:
    """Kept answers of an output in a few words; empty where its meaning is unknown."""
    if output.classes is not None:
        classes = output.classes
        text = f"top-1 {classes.top1:.1%}, top-5 {classes.top5:.1%}"
        if classes.clear_top1 is not None:
            text += f"; top-1 {classes.clear_top1:.1%} of the {classes.clear} that are clear"
        return text
    if output.embeddings is not None:
        found = output.embeddings
        text = f"cosine {found.cosine_mean:.4f}, at least {found.cosine_min:.4f}"
        if found.nearest_kept is not None and found.spearman is not None:
            text += f"; nearest kept {found.nearest_kept:.1%}, ranks {found.spearman:.4f}"
        return text
    return ""
