"""A report in the terminal."""

from __future__ import annotations

from swapnet.cli.console import print_table, print_text
from swapnet.executor.scenario.report import Line, Phase, Report
from swapnet.units import format_size

__all__ = ["show"]

_NONE = "—"


def show(report: Report) -> None:
    _show_models(report)
    print_text(
        f"Budget: {format_size(report.budget_bytes)} ({report.budget}) of "
        f"{format_size(report.demand_bytes)}, weights {format_size(report.weights_bytes)}; peak "
        f"{format_size(report.peak_bytes)} above {format_size(report.fixed_bytes)} of the "
        f"runtime and {format_size(report.traffic_bytes)} of the traffic "
        f"({report.memory_accounting})"
    )
    print_text(
        f"Weighted mean latency: {_ms(report.weighted_latency_ms)} ms; storage "
        f"{report.storage_bytes_per_s / 1e6:.0f} MB/s"
    )
    for name, ratio in report.compare.items():
        way = report.ways[name]
        if way.note:
            print_text(f"{_title(name)}: {way.note}")
        else:
            print_text(
                f"{_title(name)}: {_ms(way.weighted_latency_ms)} ms, {_ratio(ratio)} times ours; "
                f"{way.deadline_misses} deadline misses, "
                f"{format_size(way.read_bytes / max(way.requests, 1))} read per inference"
            )
    if report.phases:
        _show_phases(report.phases)
    for name, error in report.errors.items():
        print_text(f"{name} failed: {error}")


def _show_models(report: Report) -> None:
    print_table(
        report.title,
        [
            "DNN",
            "asked",
            "median ms",
            "p99 ms",
            "bound ms",
            "ratio",
            "missed",
            "MiB read",
            "share",
            "failed",
            "wrong",
        ],
        [_row(line) for line in report.models],
    )


def _row(line: Line) -> tuple[str, ...]:
    latency = line.latency_ms
    return (
        line.name,
        str(line.requests),
        _ms(latency.median if latency else None),
        _ms(latency.p99 if latency else None),
        _ms(line.bound_ms),
        _ratio(line.ratio_to_unlimited),
        str(line.deadline_misses) if line.deadline_ms is not None else _NONE,
        f"{line.read_bytes_per_inference / (1 << 20):.1f}",
        format_size(line.budget_bytes),
        str(line.failures),
        str(line.wrong_outputs),
    )


def _show_phases(phases: tuple[Phase, ...]) -> None:
    print_table(
        "Over time",
        ["from s", "to s", "budget", "change ms", "requests", "failures", "ms", "unlimited ms"],
        [
            (
                f"{phase.start_s:.1f}",
                f"{phase.end_s:.1f}",
                format_size(phase.budget_bytes),
                _ms(phase.rebalance_ms),
                str(phase.requests),
                str(phase.failures),
                _ms(phase.weighted_latency_ms),
                _ms(phase.unlimited_weighted_latency_ms),
            )
            for phase in phases
        ],
    )


def _title(name: str) -> str:
    return name.replace("_", "-").capitalize()


def _ms(value: float | None) -> str:
    if value is None:
        return _NONE
    return f"{value:.1f}" if value < 1000 else f"{value:.0f}"


def _ratio(value: float | None) -> str:
    return _NONE if value is None else f"{value:.2f}"
