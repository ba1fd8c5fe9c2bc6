"""A picture of one run: shares of the budget, and waiting requests."""

from __future__ import annotations

from pathlib import Path

from swapnet.executor.scenario.report import Report
from swapnet.files import replacing

__all__ = ["save_plot"]

_MIB = 1 << 20


def save_plot(report: Report, path: Path) -> None:
    """Draw shares of the budget and waiting requests over time, one above the other.

    Its kind is that of the file's name; see `swapnet.executor.bench.plot.check_drawable`.

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
