"""Plots of reports, by Bokeh; it is imported with the first one.

Colours of marks are readable on light and on dark paper; axes take theirs from the page.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import cycle, pairwise
from typing import TYPE_CHECKING, Any, Literal

from swapnet.executor.planning.curve import Point
from swapnet.executor.report.page import Figure
from swapnet.executor.report.trace import READERS, TraceEvent
from swapnet.units import format_size

if TYPE_CHECKING:
    from bokeh.plotting import figure

__all__ = [
    "PALETTE",
    "curve_figure",
    "shares_figure",
    "timeline_figure",
]

_MIB = 1 << 20
_FAR = 3.0
"""Ratio of the slowest peer to the slowest prediction that needs a logarithmic axis."""

_BLUE, _ORANGE, _GREEN, _PURPLE, _TEAL, _GOLD, _RED, _GREY = PALETTE = (
    *("#3d82c4", "#d0752d", "#419a66", "#8d6cc4", "#2b97a0", "#a98a2c", "#cf5151", "#87929c"),
)

_KINDS = {
    "step": ("computing", _BLUE),
    "copy": ("copying inputs and outputs", _PURPLE),
    "wait": ("waiting", _ORANGE),
    "turn": ("waiting for its turn", _GOLD),
    "read": ("reading", _GREEN),
}
"""Label and colour of slices by category."""

_PEERS = {"mapped": "memory-mapped ONNX Runtime", "against": "the other engine"}


def curve_figure(
    points: Sequence[Point],
    measured: tuple[int, float] | None = None,
    *,
    unswapped_ms: float | None = None,
    peers: Mapping[str, float] | None = None,
) -> Figure:
    """Latency over budget: prediction, bound, and what was measured.

    Parameters
    ----------
    points
        Prediction and bound at several budgets.
    measured
        Budget in bytes and median latency in milliseconds; None for a prediction.
    unswapped_ms
        Latency without swapping.
    peers
        Median latency of other ways to run the model at this budget, by name.
    """
    dots = {"measured here": (measured[1], _ORANGE)} if measured is not None else {}
    for (name, ms), color in zip((peers or {}).items(), (_PURPLE, _TEAL, _RED), strict=False):
        dots[_PEERS.get(name, name)] = ms, color
    slowest = max([unswapped_ms or 0.0, *(point.predicted_ms for point in points)])
    highest = max([slowest, *(ms for ms, _ in dots.values())])
    linear = {"y_range": (0, 1.08 * highest)}
    options = {"y_axis_type": "log"} if highest > _FAR * slowest else linear
    drawn = _plot(300, "budget [MiB]", "latency [ms]", **options)
    budgets = [point.budget_bytes / _MIB for point in points]
    for values, color, dash in (
        ([point.bound_ms for point in points], _GREY, "dashed"),
        ([point.predicted_ms for point in points], _BLUE, "solid"),
    ):
        line = drawn.line(budgets, values, color=color, line_width=2, line_dash=dash)
        _hover(drawn, line, "@x{0.0} MiB: @y{0.00} ms", mode="vline")
    legend = [("predicted", _BLUE, "line"), ("lower bound", _GREY, "dashed")]
    if unswapped_ms is not None:
        drawn.hspan([unswapped_ms], color=_GREEN, line_width=1.5)
        legend.append(("unswapped", _GREEN, "line"))
    for name, (ms, color) in dots.items():
        dot = drawn.scatter([(measured or (0, 0))[0] / _MIB], [ms], size=11, color=color)
        _hover(drawn, dot, f"{name}: @x{{0.0}} MiB, @y{{0.00}} ms")
        legend.append((name, color, "dot"))
    return Figure([drawn], legend)


def timeline_figure(events: Sequence[TraceEvent]) -> Figure:
    """Lanes of waits, steps and reads; of one model also its ring and its memory."""
    from bokeh.models import DataRange1d, FactorRange

    decided = {event["pid"] for event in events if event["ph"] == "i"}
    processes = (e for e in events if e["name"] == "process_name" and e["pid"] not in decided)
    models = {event["pid"]: event["args"]["name"] for event in processes}
    is_alone = len(models) == 1
    latest = _latest(events, is_alone=is_alone)
    slices = [event for event in latest if event["ph"] == "X"]
    origin_us = min((event["ts"] for event in slices), default=0)
    rows = sorted({_row(event) for event in slices if event["cat"] in _KINDS})
    names: dict[Any, Any] = {row: row[2] if is_alone else (models[row[0]], row[2]) for row in rows}
    lanes = _plot(
        26 * len(rows) + (16 if is_alone else 60),
        "" if is_alone else "time [ms]",
        "",
        y_range=FactorRange(factors=[*names.values()][::-1]),
        x_range=DataRange1d(range_padding=0.01),
    )
    lanes.ygrid.visible = False
    inferences = [event for event in slices if event["cat"] == "inference"]
    lanes.vspan([(e["ts"] - origin_us) / 1e3 for e in inferences], color=_GREY, alpha=0.5)
    legend = []
    for kind, (label, color) in _KINDS.items():
        these = [event for event in slices if event["cat"] == kind]
        source = {
            "row": [names[_row(event)] for event in these],
            "left": [(event["ts"] - origin_us) / 1e3 for event in these],
            "right": [(event["ts"] + event["dur"] - origin_us) / 1e3 for event in these],
            "took": [event["dur"] / 1e3 for event in these],
            "name": [_words(event) for event in these],
            "alpha": [0.95 - 0.35 * (index % 2) for index in range(len(these))],
        }
        if these:
            ends: dict[str, Any] = {"y": "row", "left": "left", "right": "right", "height": 0.72}
            look: dict[str, Any] = {"color": color, "alpha": "alpha", "line_color": None}
            bars = lanes.hbar(**ends, **look, source=source)
            _hover(lanes, bars, "@name: @took{0.000} ms, from @left{0.00} ms")
            legend.append((label, color, "area"))
    plots = [lanes]
    if is_alone:
        plots += _memory_plots(latest, origin_us, lanes.x_range)
        legend += [("bytes in the ring", _TEAL, "area"), ("all other memory", _GREY, "area")]
        legend.append(("budget, size of the ring", _RED, "line"))
    parts = sum(e["dur"] for e in slices if e["cat"] in _KINDS and e["cat"] != "read")
    share = parts / max(sum(event["dur"] for event in inferences), 1)
    return Figure(plots, legend, f"Steps, waits and copies are {share:.1%} of the latency.")


def shares_figure(
    times_s: Sequence[float],
    shares_bytes: Mapping[str, Sequence[int]],
    waiting: Mapping[str, Sequence[int]],
    *,
    other_bytes: int,
    budgets_bytes: Sequence[int],
) -> Figure:
    """Shares of one budget and waiting requests at some times, by model.

    ``other_bytes`` is memory for everything but weights, at most: scratch memory follows the plans,
    so under small budgets it is what shares leave.
    """
    from bokeh.models import BasicTicker, DataRange1d

    above = _plot(260, "", "share [MiB]", y_range=DataRange1d(start=0))
    below = _plot(
        170, "time [s]", "waiting requests", x_range=above.x_range, y_range=DataRange1d(start=0)
    )
    below.yaxis.ticker = BasicTicker(min_interval=1)
    floor = [0.0] * len(times_s)
    given = [sum(shares) for shares in zip(*shares_bytes.values(), strict=True)]
    others = [
        min(other_bytes, max(0, budget - share))
        for budget, share in zip(budgets_bytes, given, strict=True)
    ]
    layers = {"all but weights": others, **shares_bytes}
    legend = []
    for (name, values), color in zip(layers.items(), cycle((_GREY, *PALETTE[:-2])), strict=False):
        top = [low + nbytes / _MIB for low, nbytes in zip(floor, values, strict=True)]
        above.varea_step(times_s, floor, top, color=color, alpha=0.8, step_mode="after")
        if name in waiting:
            below.step(times_s, waiting[name], color=color, line_width=1.8, mode="after")
        floor = top
        legend.append((name, color, "area"))
    budgets = [nbytes / _MIB for nbytes in budgets_bytes]
    above.step(times_s, budgets, color=_RED, line_width=1.8, mode="after")
    return Figure([above, below], [*legend, ("budget", _RED, "line")])


def _plot(height: int, x: str, y: str, **options: Any) -> figure:
    """An empty plot as wide as its page; without a label its x axis is not shown."""
    from bokeh.plotting import figure

    drawn = figure(
        height=height,
        sizing_mode="stretch_width",
        x_axis_label=x,
        y_axis_label=y,
        tools="xpan,xbox_zoom,xwheel_zoom,reset",
        active_drag="xbox_zoom",
        background_fill_color=None,
        border_fill_color=None,
        outline_line_color=None,
        **options,
    )
    drawn.toolbar.logo = None
    drawn.toolbar.autohide = True
    drawn.min_border_left, drawn.min_border_right = 84, 12
    drawn.xaxis.visible = bool(x)
    for axis in drawn.axis:
        axis.axis_label_text_font = axis.major_label_text_font = "system-ui, sans-serif"
        axis.axis_label_text_font_style = "normal"
        axis.axis_label_text_font_size = axis.major_label_text_font_size = "12px"
    return drawn


def _memory_plots(events: Sequence[TraceEvent], origin_us: int, x_range: Any) -> Iterator[figure]:
    """The bytes in the ring, and all memory beside the budget."""
    from bokeh.models import BasicTicker

    series: dict[str, list[float]] = {}
    times = []
    for event in events:
        if event["ph"] == "C":
            series.setdefault(event["name"], []).append(event["args"]["bytes"] / _MIB)
        if event["name"] == "ring filled":
            times.append((event["ts"] - origin_us) / 1e3)
    filled, in_use = series.get("ring filled", []), series.get("memory in use", [])
    rest = [total - ring for total, ring in zip(in_use, filled, strict=True)]
    nothing = [0.0] * len(times)
    for label, limit, height, time, bottom, top in (
        ("ring [MiB]", "ring size", 105, "", nothing, filled),
        ("memory [MiB]", "budget", 145, "time [ms]", rest, in_use),
    ):
        highest = series[limit][-1] if limit in series else 0.0
        drawn = _plot(height, time, label, x_range=x_range, y_range=(0, 1.12 * highest or 1))
        drawn.varea_step(times, nothing, bottom, color=_GREY, alpha=0.5, step_mode="after")
        drawn.varea_step(times, bottom, top, color=_TEAL, alpha=0.7, step_mode="after")
        drawn.step(times, [highest] * len(times), color=_RED, line_width=1.8)
        drawn.yaxis.ticker = BasicTicker(desired_num_ticks=3)
        yield drawn


def _latest(events: Sequence[TraceEvent], *, is_alone: bool) -> list[TraceEvent]:
    """Slices and samples from the latest inferences on; of one model, after its last long pause."""
    inferences = [e for e in events if e.get("cat") == "inference" and e["args"]["number"] > 1]
    since = min((event["ts"] for event in inferences), default=0)
    for one, other in pairwise(inferences):
        if is_alone and other["ts"] - one["ts"] > 2 * one["dur"]:
            since = other["ts"]
    samples: dict[tuple[int, str], list[TraceEvent]] = {}
    for event in events:
        if event["ph"] == "C":
            series = samples.setdefault((event["pid"], event["name"]), [])
            if event["ts"] <= since:
                series.clear()
            series.append({**event, "ts": max(event["ts"], since)})
    kept = [event for series in samples.values() for event in series]
    return kept + [e for e in events if e["ph"] == "X" and e["ts"] + e["dur"] > since]


def _row(event: TraceEvent) -> tuple[int, int, str]:
    """Model, place and name of the lane that a slice is drawn in."""
    if event["cat"] == "read":
        return event["pid"], event["tid"], f"reader {event['tid'] - READERS}"
    is_waiting = event["cat"] in ("wait", "turn")
    return event["pid"], int(is_waiting), "waiting" if is_waiting else "compute"


def _words(event: TraceEvent) -> str:
    size = event["args"].get("nbytes")
    return f"{event['name']}, {format_size(size)}" if size else str(event["name"])


def _hover(
    drawn: figure, renderer: Any, text: str, mode: Literal["mouse", "vline"] = "mouse"
) -> None:
    from bokeh.models import HoverTool

    drawn.add_tools(HoverTool(renderers=[renderer], tooltips=text, mode=mode, visible=False))
