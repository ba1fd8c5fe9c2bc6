"""Reports whose verdict contradicts their figures."""

from __future__ import annotations

from collections.abc import Iterator

from swapnet.executor.bench.report import Report, labelled_lines
from swapnet.executor.bench.verdict import verdict_of
from swapnet.executor.planning.auto import LARGEST_STALL

__all__ = ["contradictions"]

_HIDING = ("hides", "hidden", "smaller budget")
_TOO_LATE = "too late or are too small"


def contradictions(report: Report) -> Iterator[str]:
    """What the verdict says against the figures beside it."""
    said = dict(labelled_lines(report))["Verdict"]
    share = report.stall_ms / report.latency_ms.median
    if report.verdict != verdict_of(
        streamed_bytes=report.ring_bytes,  # what is read may be rows that a step looks up
        reading_ms=report.reading_ms,
        execution_ms=report.execution_ms,
        stall_ms=report.stall_ms,
        latency_ms=report.latency_ms.median,
    ):
        yield f"{report.verdict} is not the class of these figures"
    if abs(share - report.stall_fraction) > 1e-9:
        yield f"{report.stall_fraction:.3f} is not the share of the stall, {share:.3f}"
    is_waiting = report.overlap_fraction < 0.9 and report.stall_fraction > LARGEST_STALL
    if is_waiting and (report.verdict == "compute-bound" or any(w in said for w in _HIDING)):
        yield f"it says that reading hides, and {report.stall_fraction:.1%} waits"
    if not said.startswith(report.verdict):
        yield "the text names another class"
    if (_TOO_LATE in said) != (report.verdict == "latency-bound"):
        yield "the text gives the reason of another class"
    if report.verdict != "not swapped":
        for figure in (
            f"{report.stall_fraction:.1%} of the latency waits",
            f"Reading takes {report.reading_ms:.1f} ms",
        ):
            if figure not in said:
                yield f"the text lacks: {figure}"
    advice = report.advice
    if advice and "plan predicts" in said and advice.predicted_stall > LARGEST_STALL:
        yield "the text blames storage, and the plan waits as much"
