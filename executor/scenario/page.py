"""The page of one scenario: shares over time, latencies, timeline of all DNNs, machine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from swapnet.executor.bench.page import machine_listing
from swapnet.executor.report.figures import shares_figure, timeline_figure
from swapnet.executor.report.page import Column, Facts, Page, Table
from swapnet.executor.report.trace import TraceEvent
from swapnet.executor.scenario.report import Report
from swapnet.units import format_size

__all__ = ["scenario_page"]

_MIB = 1 << 20

_MODELS = (
    *(Column("DNN"), Column("[1/s]", "{:.2f}"), Column("requests", "{}")),
    *(Column("median [ms]", "{:.1f}"), Column("p99 [ms]", "{:.1f}")),
    *(Column("unlimited [ms]", "{:.1f}"), Column("over unlimited", "{:.2f}")),
    Column("bound [ms]", "{:.1f}"),
    *(Column("deadline [ms]", "{:g}"), Column("missed", "{}"), Column("failed", "{}")),
    *(Column(f"{name} [MiB]", "{:.1f}") for name in ("share", "weights", "read")),
)

_WAYS = (
    *(Column("way to share"), Column("weighted latency [ms]", "{:.1f}")),
    *(Column("over ours", "{:.2f}"), Column("missed", "{}"), Column("failed", "{}")),
    *(Column("peak [MiB]", "{:.1f}"), Column("note")),
)


def scenario_page(report: Report, events: Sequence[TraceEvent]) -> Page:
    """The page of one scenario; ``events`` are the timeline of our way."""
    samples, names = report.samples, [line.name for line in report.models]
    shares = shares_figure(
        [sample.time_s for sample in samples],
        {name: [s.shares_bytes[i] for s in samples] for i, name in enumerate(names)},
        {name: [s.waiting[i] for s in samples] for i, name in enumerate(names)},
        other_bytes=report.demand_bytes - report.weights_bytes,
        budgets_bytes=[sample.budget_bytes for sample in samples],
    )
    failed = [f"Requests of {name} failed: {error}" for name, error in report.errors.items()]
    if wrong := sum(line.wrong_outputs for line in report.models):
        failed.append(f"{wrong} answers are not those of unlimited memory.")
    return Page(
        title=report.title,
        subtitle=f"{len(names)} DNNs on {report.machine.processor}, budget "
        f"{format_size(report.budget_bytes)} ({report.budget}) of "
        f"{format_size(report.demand_bytes)}",
        banners=[("warn", text) for text in failed],
        parts=[
            Facts([*_facts(report)]),
            *("Shares and waiting requests", shares),
            *("Latencies", Table(_MODELS, [*_models(report)])),
            *("Timeline", timeline_figure(events)),
            *("Ways to share the budget", Table(_WAYS, [*_ways(report)])),
            *("Machine", machine_listing(report.machine, report.command)),
        ],
    )


def _facts(report: Report) -> Iterator[tuple[str, str, str]]:
    if report.weighted_latency_ms is not None:
        yield "Weighted latency", f"{report.weighted_latency_ms:.1f} ms", "mean, by priorities"
    if ratio := report.compare.get("unlimited"):
        yield "Over unlimited", f"{1 / ratio:.2f}", "memory, for the same requests"
    requests = sum(line.requests for line in report.models)
    missed = sum(line.deadline_misses for line in report.models)
    yield "Deadlines missed", str(missed), f"of {requests} requests"
    note = f"of {format_size(report.budget_bytes)}, {report.memory_accounting}"
    yield "Peak memory", format_size(report.peak_bytes), note
    read = sum(line.read_bytes for line in report.models)
    yield "Read", format_size(read / max(requests, 1)), "per request"
    speed = f"{report.storage_bytes_per_s / 1e6:.0f} MB/s"
    yield "Storage", speed, "while nothing computes"
    yield "Rounds", str(report.rounds), f"seed {report.seed}"


def _models(report: Report) -> Iterator[Sequence[object]]:
    for line in report.models:
        latency, unlimited = line.latency_ms, line.unlimited_ms
        yield (
            *(line.name, line.rate_per_s, line.requests),
            *(latency and latency.median, latency and latency.p99),
            *(unlimited and unlimited.median, line.ratio_to_unlimited),
            *(line.bound_ms, line.deadline_ms),
            *(line.deadline_misses, line.failures, line.budget_bytes / _MIB),
            *(line.weights_bytes / _MIB, line.read_bytes_per_inference / _MIB),
        )


def _ways(report: Report) -> Iterator[Sequence[object]]:
    for name, way in report.ways.items():
        yield (
            *(name.replace("_", "-"), way.weighted_latency_ms),
            1.0 if name == "ours" else report.compare.get(name),
            *(way.deadline_misses, way.failures),
            *(None if way.peak_bytes is None else way.peak_bytes / _MIB, way.note),
        )
