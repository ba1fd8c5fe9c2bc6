"""The page of a comparison: outputs, and where the error enters."""

from __future__ import annotations

from pathlib import Path

from swapnet.calibration.accuracy.report import AccuracyReport, summary
from swapnet.executor.report.figures import layers_figure
from swapnet.executor.report.page import Column, Figure, Page, Table

__all__ = ["accuracy_page"]

_OUTPUTS = (
    *(Column("output"), Column("signal to noise [dB]", "{:.1f}")),
    *(Column("largest error", "{:.3g}"), Column("relative [%]", "{:.2f}")),
    *(Column("within tolerance", "{:d}"), Column("not finite", "{:d}"), Column("answers")),
)
_LAYERS = (
    *(Column("operator"), Column("kind"), Column("value")),
    *(Column("up to here [dB]", "{:.1f}"), Column("own noise over signal", "{:.3g}")),
)


def accuracy_page(found: AccuracyReport) -> Page:
    """The page of a candidate against its reference; layers where they were compared."""
    outputs = [
        (
            *(each.name, each.snr_db, each.max_abs_error, 100 * each.max_rel_error),
            *(each.within_tolerance, each.not_finite, summary(each)),
        )
        for each in found.outputs
    ]
    parts: list[str | Figure | Table] = [
        "Outputs; without a ratio they are equal",
        Table(_OUTPUTS, outputs),
    ]
    if found.layers:
        points = [(layer.operator, layer.snr_db) for layer in found.layers]
        rows = [(e.operator, e.kind, e.value, e.snr_db, e.own_noise) for e in found.layers]
        parts += ["Signal to noise over layers", layers_figure(points, found.suggested)]
        parts.append(Table(_LAYERS, rows))
    names = (Path(path).name for path in (found.candidate, found.reference))
    return Page(" against ".join(names), f"{found.samples} samples of {found.data}", [], parts)
