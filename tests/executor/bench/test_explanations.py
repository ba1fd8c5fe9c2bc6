"""Every line that a report can print is explained, in ``--verbose`` and on the page."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from swapnet.executor.bench.difference import Judgement
from swapnet.executor.bench.explanations import EXPLAINED, explained
from swapnet.executor.bench.report import Report, as_text, report_schema
from tests.executor.bench.conftest import a_peer, a_report

DOCS = Path(__file__).parents[3] / "docs"

FULL = {
    "idle_ms_between": 80.0,
    "rate_hz": 10.0,
    "deadline_misses": 2,
    "peers": {"mapped": a_peer(7.0), "against": a_peer(1.2)},
    "stable": False,
    "references": Judgement(0.5, True, losses={"y": 0.25}),
}


def labels(text: str) -> set[str]:
    return {line.partition(":")[0] for line in text.splitlines()[1:]}


def test_every_label_that_is_printed_is_explained() -> None:
    assert labels(as_text(a_report(**FULL))) == set(EXPLAINED)


def test_explanations_stand_under_their_lines() -> None:
    lines = explained(as_text(a_report(**FULL, idle_cv_percent=9.0))).splitlines()
    throughput = next(i for i, line in enumerate(lines) if line.startswith("Throughput"))
    assert lines[throughput + 1].startswith("    Counted inferences over")
    assert max(len(line) for line in lines if line.startswith("    ")) <= 80
    assert sum(line.startswith("    A reason not to trust") for line in lines) == 1


def test_the_page_has_the_table() -> None:
    page = (DOCS / "reading-a-report.md").read_text().replace("*", "")
    rows = [f"| {label} | {text} |" for label, text in EXPLAINED.items()]
    assert "\n".join(["| line | meaning |", "|---|---|", *rows]) in page


def test_the_published_schema_is_current() -> None:
    """``python -m swapnet.executor.bench.report`` prints it."""
    assert (DOCS / "schemas" / "swapnet-bench-3.json").read_bytes() == report_schema()
    assert json.loads(report_schema())["$defs"]["Report"]["additionalProperties"] is False


def test_reports_are_read_as_they_were_written() -> None:
    written = msgspec.json.encode(a_report(**FULL))
    assert msgspec.json.decode(written, type=Report) == a_report(**FULL)
    unknown = {**json.loads(written), "surprise": 1}
    with pytest.raises(msgspec.ValidationError, match="surprise"):
        msgspec.convert(unknown, Report)
