"""The report of a benchmark: schema ``swapnet-bench/3``, and the same as text."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Literal

import msgspec

from swapnet.executor.bench.difference import Judgement
from swapnet.executor.bench.statistics import Summary, is_resolved
from swapnet.executor.bench.timing import Opening
from swapnet.executor.bench.verdict import Advice, Verdict
from swapnet.executor.planning.auto import LARGEST_STALL, auto_words
from swapnet.units import format_size, rounded_up

__all__ = [
    "Machine",
    "Peer",
    "Report",
    "as_text",
    "difference_warning",
    "labelled_lines",
    "report_schema",
    "warnings",
]

LARGEST_CV_PERCENT = 2.5
"""Variation of execution above which trtexec calls a measurement unstable."""

Part = Literal["input", "compute", "output", "stall", "enqueue"]


class Machine(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
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


class Peer(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
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


class Report(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One engine at one budget; keys and units of the schema ``swapnet-bench/3``.

    Attributes
    ----------
    engine_bytes, blocks
        Size of the engine directory on disk, and number of its blocks.
    strips
        Blocks in strips of rows, in words, and where pages are given back.
    peak_bytes
        Measured peak above ``fixed_bytes``.
    memory_accounting
        Way of counting: ``"kernel limit"``, ``"kernel"``, ``"resident set"``, or ``"GPU"``.
        With ``", sampled"`` where the kernel keeps no peak.
    streamed_bytes
        Measured bytes read per inference.
    opening
        Opening of the engine, and the first inference.
    warm_up_inferences, warm_up_ms
        Our inferences before the measurement, and its duration with all sides in turn.
    iterations, rounds
        Counted inferences of ours, and the rounds that they came in.
    duration_s, wall_s
        Sum of their latencies and the pauses between them, and duration of all rounds with all
        sides in turn.
    throughput_qps
        Counted inferences over the sum of their latencies.
    stable
        Whether the medians of the last three rounds, or of all if fewer, are within 10 %.
    parts_ms
        ``input``, ``compute``, ``output``: parts of the latency before the first step, in all
        steps, and after the last. ``stall``, ``enqueue``: parts of ``compute``; see `Timing`.
    idle_ms_between, ahead_bytes
        Pause between inferences, and the bytes that were read in it: the medians.
    rate_hz, deadline_misses
        Rate that inferences began at, and those that ended after the next was due.
    bound_ms
        The larger of execution and reading time; the median over rounds.
    floor_ms
        Time that no schedule with this memory stays below; see `floor_ms` of
        `swapnet.executor.planning.floor`. The median over rounds.
    contended_bound_ms
        Execution on resident weights while the reader reads the streamed bytes, all of them.
    idle_ms
        Latency of ours with everything in memory, while nothing is read.
    idle_cv_percent
        Coefficient of variation of that latency.
    execution_ms
        Latency of the unswapped model; of ours wholly resident where that was left out.
    reading_ms
        Time to read the streamed bytes at the idle bandwidth of storage, less those that were read
        in the pause before.
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
    references
        Difference from the reference outputs of files; None without them.
    stall_fraction
        Median stall over the median latency.
    verdict, advice
        See `verdict_of` and `Advice`. No advice where nothing is streamed or none was wanted.
    storage_limit_bytes_per_s
        Bandwidth that storage was slowed down to; None where it was not.
    peers
        Other ways to run the model, under the same limit.
    exports
        Schemas of the other files that were written, by their kind.
    """

    schema: Literal["swapnet-bench/3"] = "swapnet-bench/3"
    model: str
    backend: str
    engine_bytes: int
    blocks: int
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
    opening: Opening
    warm_up_inferences: int
    warm_up_ms: float
    iterations: int
    rounds: int
    duration_s: float
    wall_s: float
    stable: bool
    latency_ms: Summary
    percentiles_ms: dict[str, float]
    parts_ms: dict[Part, Summary]
    throughput_qps: float
    idle_ms_between: float = 0.0
    ahead_bytes: int = 0
    rate_hz: float | None = None
    deadline_misses: int | None = None
    unswapped_ms: Summary | None
    ratio_to_unswapped: float | None
    bound_ms: float
    ratio_to_bound: float
    floor_ms: float
    ratio_to_floor: float
    contended_bound_ms: float
    ratio_to_contended_bound: float
    idle_ms: float
    idle_cv_percent: float
    execution_ms: float
    reading_ms: float
    predicted_ms: float
    paired_predicted_ms: float
    prediction_error: float
    overlap_fraction: float
    stall_ms: float
    stall_fraction: float
    max_abs_error: float | None
    max_rel_error: float | None
    difference: Judgement | None = None
    references: Judgement | None = None
    verdict: Verdict
    advice: Advice | None
    storage_limit_bytes_per_s: float | None = None
    strips: tuple[str, ...] = ()
    peers: dict[str, Peer] = {}
    exports: dict[str, str] = {}
    command: str
    machine: Machine


_TITLES = {"mapped": "Memory-mapped", "against": "The other engine"}


def as_text(report: Report) -> str:
    """The report for a terminal, in trtexec's manner; `explanations.EXPLAINED` has its labels."""
    lines = [f"{label}: {text}" for label, text in labelled_lines(report)]
    warned = [f"Warning: {line}" for line in warnings(report)]
    return "\n".join(["=== Performance summary ===", *lines, *difference_warning(report), *warned])


def labelled_lines(report: Report) -> Iterator[tuple[str, str]]:
    """Lines of the report, each with its label."""
    opening, machine = report.opening, report.machine
    is_auto = report.budget == "auto"
    yield (
        "Model",
        f"{report.model}, backend {report.backend}, read {machine.load_mode}"
        + (f", on {machine.gpu}" if machine.gpu else ""),
    )
    yield (
        "Engine",
        f"{format_size(report.engine_bytes)} on disk, "
        + ", ".join([f"{report.blocks} blocks", *report.strips]),
    )
    yield (
        "Budget",
        f"{format_size(report.budget_bytes)} ("
        + (auto_words(report.budget_bytes, report.demand_bytes) if is_auto else report.budget)
        + f") of {format_size(report.demand_bytes)}; peak {format_size(report.peak_bytes)} above "
        f"{format_size(report.fixed_bytes)} of fixed cost ({report.memory_accounting})",
    )
    yield (
        "Weights",
        f"{format_size(report.weights_bytes)}, resident {format_size(report.resident_bytes)}, "
        f"ring {format_size(report.ring_bytes)}, streamed {format_size(report.streamed_bytes)} "
        "per inference",
    )
    yield (
        "Open",
        f"{opening.open_ms:.2f} ms (sessions {opening.sessions_ms:.2f} ms, resident weights of "
        f"{format_size(opening.read_bytes)} {opening.read_ms:.2f} ms, plan {opening.plan_ms:.2f} "
        f"ms); weights {opening.cache} in the page cache"
        + (
            f"; {format_size(opening.packing_bytes)} read for packed weights, at most "
            f"{format_size(opening.transient_bytes)} at a time"
            if opening.packing_bytes
            else ""
        ),
    )
    yield "First inference", f"{opening.first_ms:.2f} ms"
    yield (
        "Warm-up",
        f"completed {report.warm_up_inferences} queries over {report.warm_up_ms:.0f} ms",
    )
    yield (
        "Timing trace",
        f"has {report.iterations} queries over {report.duration_s:.2f} s in {report.rounds} "
        f"rounds ({report.wall_s:.2f} s with all sides in turn)",
    )
    if report.idle_ms_between or report.rate_hz is not None:
        missed = ""
        if report.rate_hz is not None:
            missed = (
                f"; at {report.rate_hz:g} Hz {report.deadline_misses} of {report.iterations} "
                "deadlines missed"
            )
        yield (
            "Pauses",
            f"median {report.idle_ms_between:.2f} ms between inferences, "
            f"{format_size(report.ahead_bytes)} read ahead in each{missed}",
        )
    yield "Throughput", f"{report.throughput_qps:.2f} qps (queries over the sum of their latencies)"
    latency = report.latency_ms
    yield (
        "Latency",
        f"min = {latency.min:.2f} ms, max = {latency.max:.2f} ms, mean = {latency.mean:.2f} ms, "
        f"median = {latency.median:.2f} ms, "
        + ", ".join(
            f"percentile({p}%) = {ms:.2f} ms" + _unresolved(report.iterations, float(p))
            for p, ms in report.percentiles_ms.items()
        ),
    )
    parts = report.parts_ms
    yield (
        "Parts",
        f"inputs {parts['input'].median:.2f} ms, compute {parts['compute'].median:.2f} ms, "
        f"outputs {parts['output'].median:.2f} ms",
    )
    yield (
        "Variation",
        f"latency {latency.cv_percent:.1f}%, compute {parts['compute'].cv_percent:.1f}%, stall "
        f"{parts['stall'].cv_percent:.1f}%, resident execution {report.idle_cv_percent:.1f}%",
    )
    if report.unswapped_ms is not None and report.ratio_to_unswapped is not None:
        yield (
            "Unswapped",
            f"median = {report.unswapped_ms.median:.2f} ms, ratio "
            f"{report.ratio_to_unswapped:.3f}; largest difference {report.max_rel_error:.2e} of "
            "the largest output",
        )
    if (judged := report.references) is not None:
        yield (
            "References",
            f"largest {judged.algorithm} loss {judged.largest:g}, limit {judged.limit:g}",
        )
    for name, peer in report.peers.items():
        yield _TITLES.get(name, name), _peer(peer)
    yield (
        "Bound",
        f"{report.bound_ms:.2f} ms, ratio {_bounded(report.ratio_to_bound)}; floor "
        f"{report.floor_ms:.2f} ms, ratio {_bounded(report.ratio_to_floor, report.ahead_bytes)}; "
        f"contended {report.contended_bound_ms:.2f} ms, ratio "
        + _bounded(report.ratio_to_contended_bound, report.ahead_bytes),
    )
    yield (
        "Predicted",
        f"{report.predicted_ms:.2f} ms, with the delays of these rounds "
        f"{report.paired_predicted_ms:.2f} ms, measured {report.prediction_error * 100:+.1f}%",
    )
    limit = report.storage_limit_bytes_per_s
    yield (
        "Stall",
        f"{report.stall_ms:.2f} ms, {report.stall_fraction:.1%} of the latency; overlap "
        f"{report.overlap_fraction:.0%}; storage {report.storage_bytes_per_s / 1e6:.0f} MB/s"
        + (f", --storage allows {limit / 1e6:g}" if limit is not None else ""),
    )
    yield "Verdict", f"{report.verdict}. {' '.join(_reasons(report))}"


def report_schema() -> bytes:
    """JSON Schema of the report, as ``docs/schemas/swapnet-bench-3.json`` has it."""
    return msgspec.json.format(msgspec.json.encode(msgspec.json.schema(Report)), indent=2) + b"\n"


def _unresolved(count: int, percent: float) -> str:
    return "" if is_resolved(count, percent) else f" (of only {count})"


def _bounded(ratio: float, ahead_bytes: int = 0) -> str:
    """A ratio to a lower bound, with the reason where it is below one.

    ``ahead_bytes`` is the part of the bound's bytes that pauses took from the latency. Else the
    machine has changed between the two measurements.
    """
    reason = "read in pauses" if ahead_bytes else "noise"
    return f"{ratio:.3f}" + (f" (below 1: {reason})" if ratio < 1 else "")


def warnings(report: Report) -> Iterator[str]:
    """Reasons not to trust the figures."""
    if report.idle_cv_percent > LARGEST_CV_PERCENT:
        yield (
            f"execution in memory varies by {report.idle_cv_percent:.1f}%, more than "
            f"{LARGEST_CV_PERCENT:g}%: something else runs here, or the clock changes"
        )
    if not report.stable:
        yield (
            f"medians of the last rounds differ by more than 10% after {report.rounds} rounds: "
            "give a longer --duration"
        )


def difference_warning(report: Report) -> list[str]:
    """Lines that say by how much and why outputs differ; none where that is within the limit."""
    lines: list[str] = []
    for judged, reference in (
        (report.difference, "the unswapped model's"),
        (report.references, "the reference outputs"),
    ):
        if judged is None or judged.is_within:
            continue
        measure = "" if judged.algorithm == "relative" else f" ({judged.algorithm})"
        lines += [
            f"Warning: outputs differ by {judged.largest:.2e}{measure} from {reference}, the limit "
            f"is {judged.limit:g}",
            *(f"  {reason}" for reason in judged.reasons),
        ]
        if judged is report.difference and not judged.reasons:
            lines.append("  no reason for it is known")
    return lines


def _peer(peer: Peer) -> str:
    if peer.latency_ms is None or peer.ratio is None:
        return peer.note
    return f"median = {peer.latency_ms.median:.2f} ms, {peer.ratio:.2f} times ours" + (
        f"; {peer.note}" if peer.note else ""
    )


def _reasons(report: Report) -> Iterator[str]:
    """Sentences of the verdict: each is a figure, or follows from the class and its figures."""
    if report.verdict == "not swapped":
        yield "Everything fits; nothing is read while it runs."
        return
    whole = "the unswapped model" if report.unswapped_ms else "the model in memory"
    yield (
        f"Reading takes {report.reading_ms:.1f} ms, {whole} {report.execution_ms:.1f} ms, and "
        f"{report.stall_fraction:.1%} of the latency waits for storage."
    )
    if report.verdict == "latency-bound":
        yield "Requests come too late or are too small, though there is time for them."
    if report.advice is not None:
        yield from _advice(report, report.advice)


def _advice(report: Report, advice: Advice) -> Iterator[str]:
    wanted = None if advice.budget_bytes is None else rounded_up(advice.budget_bytes)
    if report.stall_fraction <= LARGEST_STALL:
        if advice.budget_bytes is not None and advice.budget_bytes < report.budget_bytes:
            yield f"The plan waits at most {LARGEST_STALL:.0%} from {wanted} on."
        return
    if advice.predicted_stall <= LARGEST_STALL:
        yield (
            f"The plan predicts {advice.predicted_stall:.1%}: storage is slower or less steady "
            "than measured (swapnet measure)."
        )
    elif wanted is None:
        yield (
            f"No budget below {format_size(report.demand_bytes)} is predicted to wait less than "
            f"{LARGEST_STALL:.0%}."
        )
    else:
        yield f"The plan waits at most {LARGEST_STALL:.0%} from {wanted} on."
    if advice.streamed_bytes:
        parts = [
            f"{format_size(n) if n else 'nothing'} in {name}"
            for name, n in advice.streamed_bytes.items()
        ]
        yield f"Streamed would be about {', '.join(parts)}."


if __name__ == "__main__":
    sys.stdout.buffer.write(report_schema())
