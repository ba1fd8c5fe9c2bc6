"""``make prove-scenarios``: three applications under one budget each, docs/multi-dnn-results.md.

Every scenario runs as ``swapnet scenario run`` does, under the kernel's limit: at a third budget
with other ways to share it, on this storage and on slower one, and there for longer and with
other rates too; one with its budget cut in half for a while; and all at two budgets in turn with
unlimited memory. Reports are kept in results/scenarios and not measured again.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from swapnet.executor.scenario.report import Report
from swapnet.units import format_size
from tests.evidence.pages import DOCS, table, write_page
from tests.evidence.pictures import save_shares

SCENARIOS = ("self_driving", "roadside_unit", "uav")
BUDGETS = ("weights:43%", "weights:17%")
COMPARED = "weights:25%"
SLOW = "400MB"
"""Of storage, per second."""
RESULTS = Path("results") / "scenarios"


@dataclass(frozen=True)
class Case:
    """One run of the command."""

    scenario: str
    budget: str
    requests: int
    options: tuple[str, ...] = ()
    kind: str = ""

    @property
    def path(self) -> Path:
        """Of its report."""
        share = self.budget.removeprefix("weights:").removesuffix("%")
        return RESULTS / f"{self.scenario}-{share}{self.kind}.json"

    def report(self) -> Report:
        """Measured now, if the same was not before."""
        arguments = ["scenario", "run", self.scenario, "--budget", self.budget]
        arguments += ["--requests", str(self.requests), "--memory-limit", *self.options]
        arguments += ["--json", str(self.path)]
        if self.path.is_file():
            kept = msgspec.json.decode(self.path.read_bytes(), type=Report)
            if kept.command == shlex.join(["swapnet", *arguments]):
                return kept
        subprocess.run([sys.executable, "-m", "swapnet", *arguments], check=True)
        return msgspec.json.decode(self.path.read_bytes(), type=Report)


SINGLE = [Case(name, budget, 200, ("--speed", "1.5")) for name in SCENARIOS for budget in BUDGETS]
OTHERS = ("--compare", "equal,proportional,whole-model")
WAYS = [
    Case("self_driving", COMPARED, 40, OTHERS, "-compared"),
    Case("roadside_unit", COMPARED, 40, OTHERS, "-compared"),
    Case("uav", COMPARED, 20, OTHERS, "-compared"),
    Case("self_driving", COMPARED, 40, (*OTHERS, "--storage", SLOW), "-slow"),
    Case("roadside_unit", COMPARED, 40, (*OTHERS, "--storage", SLOW), "-slow"),
    Case("uav", COMPARED, 20, (*OTHERS, "--storage", SLOW), "-slow"),
]
LONG = [
    Case(
        "self_driving",
        COMPARED,
        80,
        ("--compare", "equal", "--storage", SLOW, "--rounds", "2"),
        "-long",
    ),
    Case(
        "roadside_unit",
        COMPARED,
        10,
        (*OTHERS, "--storage", SLOW, "--rates", "vehicles=1.5,reports=0.1", "--rounds", "2"),
        "-rates",
    ),
]
"""A round begins with nothing waiting: in longer ones more waits. The second is asked unevenly."""

CUT = Case("self_driving", "weights:43%", 60, ("--budget-steps", "0.33:50%,0.66:100%"), "-cut")


def main() -> int:
    """Run what is missing, write the page; 1 if anything does not hold."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    ways = [case.report() for case in WAYS]
    long = [case.report() for case in LONG]
    cut = CUT.report()
    single = [case.report() for case in SINGLE]
    broken = [text for report in (*single, *ways, *long, cut) for text in failures(report)]
    for text in broken:
        print(text)  # noqa: T201
    save_shares(cut, DOCS / "multi-dnn.png")
    page = [
        *_head(single[0]),
        *_single([*single, *ways]),
        *_compared(ways),
        *_long(long),
        *_cut(cut),
    ]
    write_page(DOCS / "multi-dnn-results.md", page)
    return int(bool(broken))


def failures(report: Report) -> Iterator[str]:
    """What does not hold."""
    where = f"{report.scenario} at {report.budget}"
    if report.peak_bytes is None or report.peak_bytes > report.budget_bytes:
        yield f"{where}: peak {report.peak_bytes} above {report.budget_bytes}"
    for line in report.models:
        if line.failures or line.wrong_outputs:
            yield f"{where}: {line.name}: {line.failures} failed, {line.wrong_outputs} wrong"


def _head(report: Report) -> list[str]:
    machine = report.machine
    return [
        "# Three applications, eleven DNNs",
        "",
        "Written by `make prove-scenarios`; what it means: [several DNNs](multi-dnn.md). Every",
        "budget is of all DNNs of an application together, under the kernel's limit. Ratios are of",
        "mean latencies: medians over rounds in which ways take turns with the same requests.",
        "",
        f"{machine.processor}, ONNX Runtime on {machine.threads} threads.",
    ]


def _single(reports: Sequence[Report]) -> list[str]:
    columns = (
        *("application", "storage MB/s:", "budget:", "peak:", "DNN", "per s:", "requests:"),
        *("failed:", "wrong:", "bound ms:", "median ms:", "p99 ms:", "over unlimited:"),
        *("missed:", "read each:"),
    )
    rows = [
        (
            report.scenario,
            f"{report.storage_bytes_per_s / 1e6:.0f}",
            f"{report.budget}: {format_size(report.budget_bytes)}",
            format_size(report.peak_bytes or 0),
            f"{line.name} ({line.model})",
            f"{line.rate_per_s:g}",
            str(line.requests),
            str(line.failures),
            str(line.wrong_outputs),
            f"{line.bound_ms:.0f}",
            _ms(line.latency_ms.median if line.latency_ms else None),
            _ms(line.latency_ms.p99 if line.latency_ms else None),
            _ratio(line.ratio_to_unlimited),
            str(line.deadline_misses),
            format_size(line.read_bytes_per_inference),
        )
        for report in sorted(reports, key=_order)
        for line in report.models
    ]
    return [
        "",
        "## In turn with unlimited memory",
        "",
        "*Over unlimited*: mean latency over that with everything in memory. *Bound*: what no",
        "inference beats: the fastest one with everything in memory, or reading what its ring does",
        "not hold from idle storage.",
        "",
        *table(columns, rows),
    ]


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}"


def _ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _order(report: Report) -> tuple[str, float, float]:
    return report.scenario, -report.budget_bytes, -report.storage_bytes_per_s


def _compared(reports: Sequence[Report]) -> list[str]:
    return [
        "",
        f"## Other ways to share the budget, at {COMPARED}",
        "",
        "Mean latency weighted by priority, over ours: above 1 ours is faster. *Whole model* loads",
        "and unloads by LRU; a DNN larger than the memory is swapped in all of it. Storage of",
        f"{SLOW} per second is this one, with reads slowed down (`--storage`).",
        "",
        *_ways(reports),
    ]


def _long(reports: Sequence[Report]) -> list[str]:
    lines = [
        "",
        "### In longer rounds, and where one DNN is asked far more often than another",
        "",
        "A round begins with nothing waiting. On slow storage more waits the longer it lasts.",
        "",
    ]
    for report in reports:
        lines += [f"`{report.command}`", ""]
    return [*lines, *_ways(reports)]


def _ways(reports: Sequence[Report]) -> list[str]:
    rows = []
    for report in reports:
        found = [report.ways.get(name) for name in ("ours", *_WAYS)]
        rows.append(
            (
                report.scenario,
                f"{report.storage_bytes_per_s / 1e6:.0f}",
                _ms(report.weighted_latency_ms or 0),
                *(_ratio(report.compare.get(way)) for way in _WAYS),
                *("-" if way is None else str(way.deadline_misses) for way in found),
            )
        )
    others = [f"{way.replace('_', ' ')}:" for way in _WAYS]
    columns = ("application", "storage MB/s:", "ours ms:", *others, "missed: ours:", *others)
    return table(columns, rows)


_WAYS = ("equal", "proportional", "whole_model", "unlimited")


def _cut(report: Report) -> list[str]:
    rows = [
        (
            format_size(phase.budget_bytes),
            f"{phase.start_s:.0f}",
            f"{phase.end_s:.0f}",
            _ms(phase.rebalance_ms),
            str(phase.requests),
            str(phase.failures),
            _ms(phase.weighted_latency_ms or 0),
            _ms(phase.unlimited_weighted_latency_ms or 0),
        )
        for phase in report.phases
    ]
    columns = ("budget:", "from s:", "to s:", "took ms:", "requests:", "failed:", "weighted ms:")
    return [
        "",
        "## A budget that is cut in half and restored",
        "",
        f"`{report.command}`",
        "",
        *table([*columns, "unlimited ms:"], rows),
        "",
        "![Shares of the budget and waiting requests](multi-dnn.png)",
    ]


if __name__ == "__main__":
    sys.exit(main())
