"""The page of a scenario."""

from __future__ import annotations

import pytest

from swapnet.executor.bench.statistics import summarise
from swapnet.executor.report.page import Facts, Page, Table
from swapnet.executor.scenario.messages import Moment
from swapnet.executor.scenario.page import scenario_page
from swapnet.executor.scenario.report import Report
from tests.executor.scenario.conftest import MIB, a_line, a_report

pytestmark = pytest.mark.usefixtures("reporting")

SAMPLES = (
    Moment(0.0, 64 * MIB, (16 * MIB, 40 * MIB), (0, 2)),
    Moment(1.0, 32 * MIB, (8 * MIB, 20 * MIB), (4, 0)),
)


def page_of(report: Report) -> Page:
    return scenario_page(report, [])


def test_it_has_each_model_and_each_way() -> None:
    page = page_of(a_report(samples=SAMPLES))
    models, ways = (part for part in page.parts if isinstance(part, Table))
    assert [row[0] for row in models.rows] == ["one", "two"]
    assert [len(row) for row in models.rows] == [len(models.columns)] * 2
    assert [row[0] for row in ways.rows] == ["ours", "equal", "whole-model", "unlimited"]
    assert [row[2] for row in ways.rows] == [1.0, 1.5, None, 0.8]
    assert page.banners == []
    (facts,) = (part for part in page.parts if isinstance(part, Facts))
    assert ("Over unlimited", "1.25", "memory, for the same requests") in facts.items
    assert ("Deadlines missed", "6", "of 100 requests") in facts.items


def test_failures_and_wrong_answers_are_said_first() -> None:
    lines = (a_line(latency_ms=None, unlimited_ms=None), a_line("two", wrong_outputs=3))
    report = a_report(samples=SAMPLES, models=lines, errors={"one": "BudgetError: too little"})
    assert [text for _, text in page_of(report).banners] == [
        "Requests of one failed: BudgetError: too little",
        "3 answers are not those of unlimited memory.",
    ]


def test_a_run_without_answers_has_a_page() -> None:
    line = a_line(latency_ms=None, unlimited_ms=summarise([1.0]), ratio_to_unlimited=None)
    report = a_report(samples=SAMPLES[:1], models=(line,), compare={}, weighted_latency_ms=None)
    assert page_of(report).title == "A device"
