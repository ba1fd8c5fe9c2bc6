"""The suite as Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from swapnet.executor.bench.report import Machine, Peer, Report
from swapnet.units import format_size
from tests.evidence.ablations import ABLATIONS
from tests.evidence.cases import ABLATION, Case, Outline
from tests.evidence.pages import table
from tests.evidence.targets import FLOOR_BYTES, Target, floor_ratio

__all__ = ["ablation_page", "results_page"]

_NONE = "—"

_COLUMNS = (
    *("model", "budget", "MiB:", "streamed MiB:", "ms:", "unswapped:", "bound:"),
    *("contended bound:", "predicted:", "peak:", "mapped:", "accelerate:"),
)


def results_page(
    cases: Sequence[Case],
    outlines: Sequence[Outline],
    targets: Sequence[Target],
    notes: Sequence[str] = (),
) -> str:
    """The page of all cases, with the summary and the machine.

    Parameters
    ----------
    cases
        In the order of the rows.
    outlines
        Of their models.
    targets
        What must be shown.
    notes
        Of the whole suite: what was left out.
    """
    rows = [case for case in cases if case.key.kind != ABLATION]
    return _page(
        [
            "# The benchmark suite",
            "",
            "Written by `make bench`. Both sides of a ratio took turns in processes of their own;",
            "each ratio is the median over the pairs of turns. *Bound*: the larger of the",
            "unswapped time and of the streamed bytes over the idle bandwidth of storage;",
            "*contended bound*: execution on resident weights while the same bytes are read;",
            "*predicted*: measured over what the plan predicts with the delays of the same round;",
            "*peak*: of the budget, above the runtime's own; *mapped*, *accelerate*: their latency",
            "over ours under the same kernel limit.",
            "",
            *_machine(cases),
            *(f"- {note}" for note in notes),
            "",
            *table(_COLUMNS, map(_row, rows)),
            "",
            "## What must be shown",
            "",
            *table(("what", "found:", "target:", "holds", "where"), map(_target, targets)),
            "",
            "## The smallest budgets",
            "",
            "*Ideal*: live activations at their peak, skeletons and two ring places of "
            f"{format_size(FLOOR_BYTES // 2)}.",
            "",
            *table(
                ("model", "smallest:", "ideal:", "ratio:", "what sets it"), map(_floor, outlines)
            ),
            *_remarks(rows),
        ]
    )


def ablation_page(cases: Sequence[Case]) -> str:
    """The page of what each part of swapping is worth.

    Parameters
    ----------
    cases
        Those with something switched off.
    """
    cases = [case for case in cases if case.key.kind == ABLATION]
    rows: list[tuple[str, ...]] = []
    remarks: list[str] = []
    for case in cases:
        found = case.report.peers if case.report else {}
        ours = f"{case.report.latency_ms.median:.1f}" if case.report else _NONE
        variants = (_variant(found.get(name)) for name in ABLATIONS)
        rows.append((case.model, case.key.budget, ours, *variants))
        remarks += [f"- {case.title}: {case.note}"] if case.note else []
        remarks += [f"- {case.title}, {n}: {p.note}" for n, p in found.items() if p.note]
    titles = [f"{variant.title}:" for variant in ABLATIONS.values()]
    lines = [
        "# What each part is worth",
        "",
        "Written by `make bench`: each way to swap took turns with the normal one under the same",
        "kernel limit; its cost is the median over the pairs of turns of its latency over ours.",
        "",
        *_machine(cases),
        "",
        *table(["model", "budget", "ours ms:", *titles], rows),
    ]
    return _page([*lines, *(["", *remarks] if remarks else [])])


def _page(lines: Sequence[str]) -> str:
    return "\n".join(lines) + "\n"


def _row(case: Case) -> tuple[str, ...]:
    report = case.report
    if report is None:
        return (case.model, case.key.budget, *[_NONE] * (len(_COLUMNS) - 2))
    return (
        case.model,
        case.key.budget,
        _mib(report.budget_bytes),
        _mib(report.streamed_bytes),
        f"{report.latency_ms.median:.1f}",
        _number(report.ratio_to_unswapped),
        f"{report.ratio_to_bound:.2f}",
        f"{report.ratio_to_contended_bound:.2f}",
        f"{1 + report.prediction_error:.2f}",
        f"{report.peak_bytes / report.budget_bytes:.2f}",
        _peer(report, "mapped"),
        _peer(report, "offload"),
    )


def _peer(report: Report, name: str) -> str:
    peer = report.peers.get(name)
    if peer is None:
        return _NONE
    return f"{peer.ratio:.1f}" if peer.ratio is not None else "fails"


def _variant(peer: Peer | None) -> str:
    if peer is None or peer.ratio is None:
        return "fails" if peer is not None and peer.note else _NONE
    streamed = f" ({_mib(peer.streamed_bytes)} MiB read)" if peer.streamed_bytes else ""
    return f"{peer.ratio:.2f}{streamed}"


def _target(target: Target) -> tuple[str, ...]:
    limit = _NONE if target.limit is None else f"{'≥' if target.at_least else '≤'} {target.limit:g}"
    holds = {True: "yes", False: "**no**", None: _NONE}[target.holds]
    return target.name, f"{target.found:.3f}", limit, holds, target.where


def _floor(outline: Outline) -> tuple[str, ...]:
    ideal = outline.ideal_bytes + outline.skeleton_bytes + FLOOR_BYTES
    return (
        outline.model,
        format_size(outline.smallest_bytes),
        format_size(ideal),
        f"{floor_ratio(outline):.2f}",
        outline.reason,
    )


def _remarks(cases: Sequence[Case]) -> Iterator[str]:
    remarks = [f"- {case.title}: {case.note}" for case in cases if case.note]
    for case in cases:
        for name, peer in (case.report.peers if case.report else {}).items():
            if peer.note:
                remarks.append(f"- {case.title}, {name}: {peer.note}")
            elif peer.fixed_bytes:
                remarks.append(
                    f"- {case.title}, {name}: its process takes {format_size(peer.fixed_bytes)} "
                    f"before it has a model; limit {format_size(peer.fixed_bytes)} and the "
                    f"budget; largest difference from ours {peer.max_rel_error or 0:.1e} of the "
                    "largest output"
                )
    if remarks:
        yield from ("", "## Remarks", "", *remarks)


def _machine(cases: Sequence[Case]) -> Iterator[str]:
    reports = [case.report for case in cases if case.report is not None]
    if not reports:
        return
    machine: Machine = reports[-1].machine
    rates = sorted(r.storage_bytes_per_s for r in reports if r.storage_bytes_per_s)
    storage = f"{rates[0] / 1e9:.2f} to {rates[-1] / 1e9:.2f} GB/s" if rates else "not read"
    yield (
        f"- {machine.processor}, {machine.processors} processors, "
        f"{format_size(machine.memory_bytes)}, Linux {machine.kernel}; storage {storage} idle"
    )
    yield (
        f"- SwapNet {machine.swapnet}, {machine.backend}, Python {machine.python}, "
        f"{machine.threads} threads; memory by {reports[-1].memory_accounting}; runtime's own "
        f"{format_size(reports[-1].fixed_bytes)}"
    )


def _mib(nbytes: int | None) -> str:
    return f"{(nbytes or 0) / (1 << 20):.1f}"


def _number(value: float | None) -> str:
    return _NONE if value is None else f"{value:.2f}"
