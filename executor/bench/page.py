"""The page of one benchmark: verdict, latency over budget, timeline, blocks, machine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import median
from typing import Any

import msgspec

from swapnet.executor.bench.bench import Findings
from swapnet.executor.bench.exports import operators_in
from swapnet.executor.bench.report import (
    Machine,
    Report,
    difference_warning,
    labelled_lines,
    warnings,
)
from swapnet.executor.planning.curve import Point
from swapnet.executor.report.figures import curve_figure, timeline_figure
from swapnet.executor.report.page import Column, Facts, Listing, Page, Table
from swapnet.executor.report.trace import block_range
from swapnet.units import format_size

__all__ = ["bench_page", "machine_listing"]

_MIB = 1 << 20

_COLUMNS = (
    *(Column("blocks"), Column("operators")),
    *(Column(f"{name} [MiB]", "{:.2f}") for name in ("weights", "streamed")),
    *(Column(f"{name} [ms]", "{:.3f}") for name in ("wait", "compute")),
    Column("% of latency", "{:.1f}"),
)


def bench_page(findings: Findings, points: Sequence[Point]) -> Page:
    """The page of one benchmark; ``points`` are predictions and bounds at several budgets."""
    report = findings.report
    curve = curve_figure(
        points,
        (report.budget_bytes, report.latency_ms.median),
        unswapped_ms=report.unswapped_ms.median if report.unswapped_ms else None,
        peers={n: p.latency_ms.median for n, p in report.peers.items() if p.latency_ms},
    )
    lines = dict(labelled_lines(report))
    is_good = report.verdict in ("not swapped", "compute-bound")
    differing = "; ".join(line.strip() for line in difference_warning(report))
    warned = [*([differing] if differing else []), *(f"Warning: {w}" for w in warnings(report))]
    return Page(
        title=report.model,
        subtitle=f"{report.backend} on {report.machine.gpu or report.machine.processor}, budget "
        f"{format_size(report.budget_bytes)} ({report.budget}) of "
        f"{format_size(report.demand_bytes)}",
        banners=[
            ("good" if is_good else "note", f"Verdict: {lines.pop('Verdict')}"),
            *(("warn", text) for text in warned),
        ],
        parts=[
            Facts([*_facts(report)]),
            *("Latency over budget", curve),
            *("Timeline", timeline_figure(findings.trace_events)),
            *("Steps of one block or several, medians", Table(_COLUMNS, [*_rows(findings)])),
            *("All figures", Listing([*lines.items()])),
            *("Machine", machine_listing(report.machine, report.command)),
        ],
    )


def machine_listing(machine: Machine, command: str) -> Listing:
    """The command, the machine and the software."""
    facts = {k: str(v) for k, v in msgspec.structs.asdict(machine).items() if v}
    facts["memory"] = format_size(int(facts.pop("memory_bytes")))
    return Listing([("command", command), *((k.replace("_", " "), v) for k, v in facts.items())])


def _facts(report: Report) -> Iterator[tuple[str, str, str]]:
    latency, opening = report.latency_ms, report.opening
    yield "Latency, median", f"{latency.median:.2f} ms", f"99th percentile {latency.p99:.2f}"
    if report.unswapped_ms is not None:
        note = f"unswapped {report.unswapped_ms.median:.2f} ms"
        yield "Over unswapped", f"{report.ratio_to_unswapped:.3f}", note
    yield "Over bound", f"{report.ratio_to_bound:.3f}", f"bound {report.bound_ms:.2f} ms"
    note = f"of {format_size(report.budget_bytes)}, {report.memory_accounting}"
    yield "Peak memory", format_size(report.peak_bytes), note
    note = f"of {format_size(report.weights_bytes)} per inference"
    yield "Streamed", format_size(report.streamed_bytes), note
    note = f"{report.stall_fraction:.1%} of the latency"
    yield "Waiting for bytes", f"{report.stall_ms:.2f} ms", note
    yield "Open", f"{opening.open_ms:.0f} ms", f"first inference {opening.first_ms:.2f} ms"
    yield "Inferences", str(report.iterations), f"in {report.rounds} rounds"


def _rows(findings: Findings) -> Iterator[Sequence[Any]]:
    plan, timings = findings.plan, findings.timings
    before = 0
    for index, step in enumerate(plan.steps):
        inside = findings.manifest.blocks[step.first : step.last + 1]
        streamed = sum(read.stored_bytes for read in plan.reads[before : step.reads])
        before = step.reads
        wait_ms = median(timing.waits_ms[index] for timing in timings)
        compute_ms = median(timing.steps_ms[index] for timing in timings)
        yield (
            block_range(step).split(maxsplit=1)[1],
            operators_in(inside),
            sum(block.swapped_bytes for block in inside) / _MIB,
            streamed / _MIB,
            wait_ms,
            compute_ms,
            100 * (compute_ms + wait_ms) / findings.report.latency_ms.median,
        )
