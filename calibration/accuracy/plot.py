"""A picture of where the error enters; matplotlib is imported when it is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from swapnet.calibration.accuracy.report import LayerAccuracy
from swapnet.errors import InputError
from swapnet.files import replacing

__all__ = ["check_drawable", "save_layer_plot"]

_BLUE, _RED = "#1f5fa8", "#b3341f"
_LONGEST = 40


def check_drawable(path: Path) -> None:
    """Check that a picture can be drawn into a file of this name, before the work is done.

    Raises
    ------
    InputError
        Matplotlib is not installed, or knows no such kind of picture.
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
            hint="write it like layers.png or layers.svg",
        )


def save_layer_plot(
    title: str, layers: Sequence[LayerAccuracy], suggested: Sequence[str], path: Path
) -> None:
    """Draw signal-to-noise ratios over layers; the suffix of ``path`` says which kind of picture.

    ``suggested`` are names of operators to mark.

    Raises
    ------
    StorageError
        The file can't be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    drawn = [
        (index, layer.snr_db, layer.operator)
        for index, layer in enumerate(layers)
        if layer.snr_db is not None
    ]
    marked = [point for point in drawn if point[2] in suggested]
    axes.plot(
        [index for index, _, _ in drawn],
        [snr for _, snr, _ in drawn],
        color=_BLUE,
        lw=1.2,
        marker="o",
        ms=3,
        label="all error up to here",
    )
    if marked:
        axes.plot(
            [index for index, _, _ in marked],
            [snr for _, snr, _ in marked],
            "o",
            color=_RED,
            ms=7,
            label="adds most: suggested to exclude",
        )
    for index, snr, operator in marked:
        axes.annotate(
            operator[-_LONGEST:],
            (index, snr),
            xytext=(4, 6),
            textcoords="offset points",
            fontsize=8,
            color=_RED,
        )
    axes.set_title(title, fontsize=11)
    axes.set_xlabel("layer, in the order of execution")
    axes.set_ylabel("signal to noise [dB]")
    axes.legend(frameon=False, fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(visible=True, color="#e6e6e6", lw=0.6)
    axes.set_axisbelow(True)
    with replacing(path) as temporary:
        figure.savefig(temporary, format=path.suffix.lstrip(".") or "png", dpi=150)
