"""Pictures of the documentation: latency over budget, and shares of a budget over time.

Matplotlib is imported with the first one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from swapnet.errors import InputError
from swapnet.executor.bench.report import Report
from swapnet.executor.planning.curve import Point
from swapnet.executor.scenario import report as scenario
from swapnet.files import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Panel", "check_drawable", "panel_of", "save_plot", "save_shares"]

_MIB = 1 << 20
_FAR = 3.0
"""Ratio of the slowest peer to the slowest prediction that needs a logarithmic axis."""

_BLUE, _ORANGE, _GREY, _LIGHT = "#1f5fa8", "#c2571a", "#666666", "#aaaaaa"
_MARKERS = {
    "ours": ("measured", "o", _BLUE, 6),
    "mapped": ("memory-mapped ONNX Runtime", "s", _ORANGE, 5),
}
"""Label, marker, colour and size, by side."""


def check_drawable() -> None:
    """Check that Matplotlib is here, before the work is done; an InputError where it is not."""
    try:
        import matplotlib.backends.backend_agg  # noqa: F401
    except ImportError as error:
        raise InputError(
            "plots need Matplotlib", why=str(error), hint="pip install 'swapnet-trt[plot]'"
        ) from error


@dataclass(frozen=True)
class Panel:
    """Contents of one panel: one model.

    Attributes
    ----------
    title
        Title above the panel.
    curve
        Prediction and bound.
    measured
        Budget in bytes and latency in milliseconds of each case.
    peers
        ``measured`` of other ways to run the model, by name.
    unswapped_ms
        Latency without swapping; None where it was not measured.
    """

    title: str
    curve: Sequence[Point]
    measured: Sequence[tuple[int, float]] = ()
    peers: Mapping[str, Sequence[tuple[int, float]]] = field(default_factory=dict)
    unswapped_ms: float | None = None


def panel_of(title: str, curve: Sequence[Point], reports: Sequence[Report]) -> Panel:
    """The panel of one model's reports."""
    peers: dict[str, list[tuple[int, float]]] = {}
    for report in reports:
        for name, peer in report.peers.items():
            if peer.latency_ms is not None:
                point = (report.budget_bytes, peer.latency_ms.median)
                peers.setdefault(name, []).append(point)
    unswapped = sorted(r.unswapped_ms.median for r in reports if r.unswapped_ms is not None)
    return Panel(
        title=title,
        curve=curve,
        measured=[(r.budget_bytes, r.latency_ms.median) for r in reports],
        peers=peers,
        unswapped_ms=unswapped[len(unswapped) // 2] if unswapped else None,
    )


def save_plot(panels: Sequence[Panel], path: Path) -> None:
    """Draw panels side by side into one picture, of the kind that the file's name has.

    Raises
    ------
    StorageError
        The file can't be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2 * len(panels), 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    drawn = [figure.add_subplot(1, len(panels), i + 1) for i in range(len(panels))]
    for axes, panel in zip(drawn, panels, strict=True):
        _draw(axes, panel)
    drawn[0].set_ylabel("latency [ms]")
    labelled = {
        label: handle
        for axes in drawn
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(
        labelled.values(),
        labelled.keys(),
        loc="outside lower center",
        ncols=min(len(labelled), 2 * len(panels)),
        frameon=False,
        fontsize=9,
    )
    with replacing(path) as temporary:
        figure.savefig(temporary, format=path.suffix.lstrip(".") or "png", dpi=150)


def save_shares(report: scenario.Report, path: Path) -> None:
    """Draw shares of the budget and waiting requests over time, one above the other.

    Its kind is that of the file's name.

    Raises
    ------
    StorageError
        The file can't be written.
    """
    from matplotlib import colormaps
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.0, 5.6), layout="constrained")
    FigureCanvasAgg(figure)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    times = [sample.time_s for sample in report.samples]
    names = [line.name for line in report.models]
    colors = [colormaps["tab10" if len(names) <= 10 else "tab20"](i) for i in range(len(names))]
    other = (report.demand_bytes - report.weights_bytes) / _MIB
    shares = [[s.shares_bytes[i] / _MIB for s in report.samples] for i in range(len(names))]
    above.stackplot(
        times,
        [[other] * len(times), *shares],
        labels=["all but weights", *names],
        colors=["#dddddd", *colors],
        step="post",
        alpha=0.85,
    )
    budgets = [sample.budget_bytes / _MIB for sample in report.samples]
    above.step(times, budgets, where="post", color="black", lw=1.2, label="budget")
    above.set_ylabel("shares of the budget [MiB]")
    above.set_ylim(bottom=0)
    for index, name in enumerate(names):
        waiting = [sample.waiting[index] for sample in report.samples]
        below.step(times, waiting, where="post", color=colors[index], lw=1.2, label=name)
    below.set_ylabel("waiting requests")
    below.set_xlabel("time [s]")
    below.set_ylim(bottom=0)
    below.yaxis.get_major_locator().set_params(integer=True)
    for axes in (above, below):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(visible=True, color="#e6e6e6", lw=0.6)
        axes.set_axisbelow(True)
        axes.margins(x=0)
    above.set_title(f"{report.title}, budget {report.budget}", fontsize=11)
    figure.legend(
        *above.get_legend_handles_labels(),
        loc="outside lower center",
        ncols=min(len(names) + 2, 6),
        frameon=False,
        fontsize=9,
    )
    with replacing(path) as temporary:
        figure.savefig(temporary, format=path.suffix.lstrip(".") or "png", dpi=150)


def _draw(axes: Axes, panel: Panel) -> None:
    budgets = [point.budget_bytes / _MIB for point in panel.curve]
    predicted = [point.predicted_ms for point in panel.curve]
    bounds = [point.bound_ms for point in panel.curve]
    axes.plot(budgets, predicted, color=_BLUE, lw=1.6, label="predicted")
    axes.plot(budgets, bounds, color=_GREY, lw=1.2, ls="--", label="bound")
    if panel.unswapped_ms is not None:
        axes.axhline(panel.unswapped_ms, color=_LIGHT, lw=1, ls=":", label="unswapped")
    ours = {"ours": panel.measured} if panel.measured else {}
    for name, points in {**ours, **panel.peers}.items():
        label, marker, color, size = _MARKERS.get(name, (name, "^", _GREY, 5))
        nbytes, ms = zip(*points, strict=True)
        axes.plot(np.array(nbytes) / _MIB, ms, marker, color=color, ms=size, label=label)
    highest = max((ms for points in panel.peers.values() for _, ms in points), default=0.0)
    if highest > _FAR * max(predicted):
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)
    axes.set_title(panel.title, fontsize=11)
    axes.set_xlabel("budget [MiB]")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(visible=True, color="#e6e6e6", lw=0.6)
    axes.set_axisbelow(True)
