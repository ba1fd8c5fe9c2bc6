"""The report of a benchmark: schema ``swapnet-bench/2``, and the same as text."""

from __future__ import annotations

from typing import Literal

import msgspec

from swapnet.executor.bench.judgement import Judgement
from swapnet.executor.bench.statistics import Summary
from swapnet.units import format_size

__all__ = ["Machine", "Peer", "Report", "as_text", "difference_warning"]

Verdict = Literal["storage-bound", "compute-bound", "not swapped"]


class Machine(msgspec.Struct, frozen=True):
    """The machine and the software that were measured."""

    processor: str
    processors: int
    memory_bytes: int
    kernel: str
    python: str
    swapnet: str
    backend: str
    load_mode: str
    threads: int
    gpu: str = ""


class Peer(msgspec.Struct, frozen=True, kw_only=True):
    """Another side that ran in turn with ours.

    Attributes
    ----------
    latency_ms
        Latency; None where it did not run.
    ratio
        Its latency over ours: the median over pairs of rounds.
    fixed_bytes
        Fixed cost of its process, where that is not ours; its limit is the budget above it.
    streamed_bytes
        Bytes read per inference, where they are known.
    max_rel_error
        Largest difference from our outputs, relative to the largest magnitude.
    note
        Reason why it did not run, or not to the end.
    """

    latency_ms: Summary | None = None
    ratio: float | None = None
    fixed_bytes: int | None = None
    streamed_bytes: int | None = None
    max_rel_error: float | None = None
    note: str = ""


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """One engine at one budget; keys and units of the schema ``swapnet-bench/2``.

    Attributes
    ----------
    peak_bytes
        Measured peak above ``fixed_bytes``.
    memory_accounting
        Way of counting: ``"kernel limit"``, ``"kernel"``, ``"resident set"``, or ``"GPU"``.
        With ``", sampled"`` where the kernel keeps no peak.
    streamed_bytes
        Measured bytes read per inference.
    bound_ms
        The larger of execution and reading time; the median over rounds.
    contended_bound_ms
        Execution on resident weights while the reader reads the streamed bytes.
    idle_ms
        Latency of ours with everything in memory, while nothing is read.
    execution_ms
        Latency of the unswapped model; of ours wholly resident where that was left out.
    reading_ms
        Time to read the streamed bytes at the idle bandwidth of storage.
    predicted_ms
        Prediction by the stored profile.
    paired_predicted_ms
        Prediction by the profile with the execution time and bandwidth of each round; the median.
    prediction_error
        Measured latency over that prediction, less one: the median over rounds.
    overlap_fraction
        Fraction of the reading that was hidden behind execution.
    difference
        ``max_rel_error`` against the limit; None without the unswapped model.
    storage_limit_bytes_per_s
        Bandwidth that storage was slowed down to; None where it was not.
    peers
        Other ways to run the model, under the same limit.
    """

    schema: Literal["swapnet-bench/2"] = "swapnet-bench/2"
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
    fixed_bytes: int
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
    idle_ms: float
    execution_ms: float
    reading_ms: float
    predicted_ms: float
    paired_predicted_ms: float
    prediction_error: float
    overlap_fraction: float
    stall_ms: float
    max_abs_error: float | None
    max_rel_error: float | None
    difference: Judgement | None = None
    verdict: Verdict
    storage_limit_bytes_per_s: float | None = None
    peers: dict[str, Peer] = {}
    iterations: int
    rounds: int
    command: str
    machine: Machine


_TITLES = {"mapped": "Memory-mapped", "against": "The other engine"}


def as_text(report: Report) -> str:
    """The report for a terminal, in trtexec's manner."""
    latency, limit = report.latency_ms, report.storage_limit_bytes_per_s
    lines = [
        "=== Performance summary ===",
        f"Model: {report.model}, backend {report.backend}, read {report.machine.load_mode}"
        + (f", on {report.machine.gpu}" if report.machine.gpu else ""),
        f"Budget: {format_size(report.budget_bytes)} ({report.budget}) of "
        f"{format_size(report.demand_bytes)}; peak {format_size(report.peak_bytes)} above "
        f"{format_size(report.fixed_bytes)} of fixed cost ({report.memory_accounting})",
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
    lines += difference_warning(report)
    for name, peer in report.peers.items():
        lines.append(f"{_TITLES.get(name, name)}: {_peer(peer)}")
    lines += [
        f"Bound: {report.bound_ms:.2f} ms, ratio {report.ratio_to_bound:.3f}; contended "
        f"{report.contended_bound_ms:.2f} ms, ratio {report.ratio_to_contended_bound:.3f}",
        f"Predicted: {report.predicted_ms:.2f} ms, with the delays of these rounds "
        f"{report.paired_predicted_ms:.2f} ms, measured {report.prediction_error * 100:+.1f}%",
        f"Stall: {report.stall_ms:.2f} ms; overlap "
        f"{report.overlap_fraction * 100:.0f}%; storage "
        f"{report.storage_bytes_per_s / 1e6:.0f} MB/s"
        + (f", --storage allows {limit / 1e6:g}" if limit is not None else ""),
        f"Verdict: {report.verdict}. {_advice(report)}",
    ]
    return "\n".join(lines)


def difference_warning(report: Report) -> list[str]:
    """Lines that say by how much and why outputs differ; none where that is within the limit."""
    judged = report.difference
    if judged is None or judged.is_within:
        return []
    return [
        f"Warning: outputs differ by {report.max_rel_error:.2e} from the unswapped model's, the "
        f"limit is {judged.limit:g}",
        *(f"  {reason}" for reason in judged.reasons or ("no reason for it is known",)),
    ]


def _peer(peer: Peer) -> str:
    if peer.latency_ms is None or peer.ratio is None:
        return peer.note
    return f"median = {peer.latency_ms.median:.2f} ms, {peer.ratio:.2f} times ours" + (
        f"; {peer.note}" if peer.note else ""
    )


def _advice(report: Report) -> str:
    if report.verdict == "not swapped":
        return "Everything fits; nothing is read while it runs."
    if report.verdict == "storage-bound":
        return "Reading takes longer than computing: a larger budget makes it faster."
    return "Reading hides behind computing: a smaller budget may cost little."
