"""What a benchmark found: schema ``swapnet-bench/1``, and the same as text."""

from __future__ import annotations

from typing import Literal

import msgspec

from swapnet.executor.bench.statistics import Summary
from swapnet.units import format_size

__all__ = ["Machine", "Report", "as_text"]

Verdict = Literal["storage-bound", "compute-bound", "not swapped"]


class Machine(msgspec.Struct, frozen=True):
    """Where it was measured."""

    processor: str
    processors: int
    memory_bytes: int
    kernel: str
    python: str
    swapnet: str
    backend: str
    load_mode: str
    threads: int


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """One engine at one budget; keys and units of the schema ``swapnet-bench/1``.

    Attributes
    ----------
    peak_bytes
        Measured, above ``runtime_bytes``.
    memory_accounting
        Who counted: ``"kernel limit"``, ``"kernel"`` or ``"resident set"``.
    streamed_bytes
        Read per inference, measured.
    bound_ms
        The larger of the unswapped execution time and of the streamed bytes over the idle
        bandwidth of storage.
    contended_bound_ms
        Execution on resident weights while the reader reads those bytes.
    overlap_fraction
        Share of the reading that was hidden behind execution.
    """

    schema: Literal["swapnet-bench/1"] = "swapnet-bench/1"
    model: str
    backend: str
    budget: str
    budget_bytes: int
    demand_bytes: int
    weights_bytes: int
    resident_bytes: int
    ring_bytes: int
    activation_bytes: int
    staging_bytes: int
    peak_bytes: int
    runtime_bytes: int
    memory_accounting: str
    streamed_bytes: int
    storage_bytes_per_s: float
    latency_ms: Summary
    percentiles_ms: dict[str, float]
    throughput_qps: float
    unswapped_ms: Summary | None
    ratio_to_unswapped: float | None
    mapped_ms: Summary | None
    ratio_of_mapped: float | None
    bound_ms: float
    ratio_to_bound: float
    contended_bound_ms: float
    ratio_to_contended_bound: float
    predicted_ms: float
    overlap_fraction: float
    stall_ms: float
    max_abs_error: float | None
    max_rel_error: float | None
    verdict: Verdict
    iterations: int
    command: str
    machine: Machine


def as_text(report: Report) -> str:
    """The report for a terminal, in trtexec's manner."""
    latency = report.latency_ms
    lines = [
        "=== Performance summary ===",
        f"Model: {report.model}, backend {report.backend}, read {report.machine.load_mode}",
        f"Budget: {format_size(report.budget_bytes)} ({report.budget}) of "
        f"{format_size(report.demand_bytes)}; peak {format_size(report.peak_bytes)} above "
        f"{format_size(report.runtime_bytes)} of the runtime ({report.memory_accounting})",
        f"Weights: {format_size(report.weights_bytes)}, resident "
        f"{format_size(report.resident_bytes)}, ring {format_size(report.ring_bytes)}, streamed "
        f"{format_size(report.streamed_bytes)} per inference",
        f"Throughput: {report.throughput_qps:.2f} qps",
        f"Latency: min = {latency.min:.2f} ms, max = {latency.max:.2f} ms, mean = "
        f"{latency.mean:.2f} ms, median = {latency.median:.2f} ms, "
        + ", ".join(f"percentile({p}%) = {ms:.2f} ms" for p, ms in report.percentiles_ms.items()),
    ]
    if report.unswapped_ms is not None and report.ratio_to_unswapped is not None:
        lines.append(
            f"Unswapped: median = {report.unswapped_ms.median:.2f} ms, ratio "
            f"{report.ratio_to_unswapped:.3f}; largest difference {report.max_rel_error:.2e} of "
            "the largest output"
        )
    if report.mapped_ms is not None and report.ratio_of_mapped is not None:
        lines.append(
            f"Memory-mapped: median = {report.mapped_ms.median:.2f} ms, "
            f"{report.ratio_of_mapped:.2f} times ours"
        )
    lines += [
        f"Bound: {report.bound_ms:.2f} ms, ratio {report.ratio_to_bound:.3f}; contended "
        f"{report.contended_bound_ms:.2f} ms, ratio {report.ratio_to_contended_bound:.3f}",
        f"Predicted: {report.predicted_ms:.2f} ms; stall {report.stall_ms:.2f} ms; overlap "
        f"{report.overlap_fraction * 100:.0f}%; storage "
        f"{report.storage_bytes_per_s / 1e6:.0f} MB/s",
        f"Verdict: {report.verdict}. {_advice(report)}",
    ]
    return "\n".join(lines)


def _advice(report: Report) -> str:
    if report.verdict == "not swapped":
        return "Everything fits; nothing is read while it runs."
    if report.verdict == "storage-bound":
        return "Reading takes longer than computing: a larger budget makes it faster."
    return "Reading hides behind computing: a smaller budget may cost little."
