"""Pictures; Matplotlib is loaded when one is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from swapnet.errors import InputError, StorageError

if TYPE_CHECKING:
    from swapnet.executor.curve import Point

__all__ = ["check_drawable", "draw_curve"]


def check_drawable(path: Path) -> None:
    """Whether a picture can be drawn into a file of this name, asked before the work is done.

    Raises
    ------
    InputError
        Matplotlib is not here, or knows no such kind of picture.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
    except ImportError as error:
        raise InputError(
            "plots need Matplotlib", why=str(error), hint="pip install 'swapnet-trt[plot]'"
        ) from error
    kinds = FigureCanvasAgg.get_supported_filetypes()
    if path.suffix[1:].lower() not in kinds:
        raise InputError(
            f"{path} is not the name of a picture",
            why=f"its suffix is {path.suffix!r}, it can be {', '.join(sorted(kinds))}",
            hint="write it like curve.png or curve.svg",
        )


def draw_curve(points: Sequence[Point], title: str, path: Path, *, note: str = "") -> None:
    """Predicted latency over budget, with the bound below.

    Parameters
    ----------
    points
        By budget.
    title, note
        Above the picture, and small below it.
    path
        Where the picture goes; its suffix is its kind.

    Raises
    ------
    StorageError
        The file can't be written.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot()
    budgets = [point.budget_bytes / (1 << 20) for point in points]
    axes.plot(budgets, [p.predicted_ms for p in points], "o-", markersize=3, label="predicted")
    axes.plot(budgets, [p.bound_ms for p in points], "--", label="bound")
    axes.set_xlabel("budget (MiB)")
    axes.set_ylabel("latency (ms)")
    axes.set_ylim(bottom=0)
    axes.set_title(title)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.supxlabel(note, fontsize=7)
    try:
        figure.savefig(path, dpi=150)
    except OSError as error:
        raise StorageError(
            f"{path} can't be written",
            why=error.strerror or str(error),
            hint="choose another place, or free some space",
        ) from error
