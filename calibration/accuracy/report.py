"""What a comparison found: schema ``swapnet-accuracy/1``."""

from __future__ import annotations

from typing import Literal

import msgspec

__all__ = [
    "AccuracyReport",
    "Classes",
    "Embeddings",
    "LayerAccuracy",
    "OutputAccuracy",
    "Texts",
    "summary",
]


class Classes(msgspec.Struct, frozen=True):
    """Of a classifier: shares from 0 to 1.

    Attributes
    ----------
    rows
        How many were classified.
    top1, top5
        The reference's best class is the best that was found, and among the five best.
    clear
        Rows to whose best class the reference gives a probability of one half or more.
    clear_top1
        As ``top1``, of these; None where there are none.
    """

    rows: int
    top1: float
    top5: float
    clear: int = 0
    clear_top1: float | None = None


class Embeddings(msgspec.Struct, frozen=True):
    """Of an encoder.

    Attributes
    ----------
    rows
        How many were encoded.
    cosine_mean, cosine_min
        Of a row and its reference.
    nearest_kept
        Share of the rows that the same other row is nearest to; None for a single row.
    spearman
        Rank correlation of the similarities of all pairs; None for a single row.
    """

    rows: int
    cosine_mean: float
    cosine_min: float
    nearest_kept: float | None
    spearman: float | None


class Texts(msgspec.Struct, frozen=True):
    """Of a reader.

    Attributes
    ----------
    lines, same
        How many were read, and read as the reference does.
    changed
        The others: expected and found.
    respaced
        Those of the others that differ in nothing but spaces.
    """

    lines: int
    same: int
    changed: list[tuple[str, str]]
    respaced: int = 0


class OutputAccuracy(msgspec.Struct, frozen=True, kw_only=True):
    """One output over all samples.

    Attributes
    ----------
    name
        Of the output.
    snr_db
        Signal-to-noise ratio, between -200 and 200; None where nothing differs.
    max_abs_error, max_rel_error
        Largest difference, and the same over the reference's largest magnitude.
    not_finite
        Elements that are NaN or infinite in one of the models only.
    within_tolerance
        Samples of which each element is within the tolerance.
    classes, embeddings, texts
        What the output means, where that is known.
    """

    name: str
    snr_db: float | None
    max_abs_error: float
    max_rel_error: float
    not_finite: int
    within_tolerance: int
    classes: Classes | None = None
    embeddings: Embeddings | None = None
    texts: Texts | None = None


class LayerAccuracy(msgspec.Struct, frozen=True, kw_only=True):
    """One value between operators.

    Attributes
    ----------
    value
        Its name.
    operator, kind
        What writes it; of several that became one, the first that can be excluded.
    snr_db
        Signal-to-noise ratio of the value: all error up to here; None where nothing differs.
    own_noise
        Noise over signal that is added here: that of the value less that of the worst of the
        values that the operator reads, at least 0.
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
    reference, candidate, data
        What was compared on what, for people.
    samples
        How many.
    tolerance
        Allowed difference, over the reference's largest magnitude in the sample.
    outputs
        In the order of the reference's.
    layers, layer_samples
        In the order of execution, over the first of the samples; empty where not asked for.
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
    """What the output's task keeps, in a few words; empty where no task is known."""
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
    if output.texts is not None:
        texts = output.texts
        text = f"{texts.same} of {texts.lines} texts unchanged"
        return f"{text}, {texts.same + texts.respaced} but for spaces" if texts.respaced else text
    return ""
