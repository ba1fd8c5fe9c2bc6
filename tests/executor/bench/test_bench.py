"""A benchmark with another interpreter that fails, or is killed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from swapnet.budget import Budget
from swapnet.builder.one_operator import one_operator_engine
from swapnet.errors import BudgetError
from swapnet.executor.bench.bench import Other, Setup, bench
from swapnet.executor.bench.fixed_cost import FixedCost
from swapnet.executor.bench.rounds import Schedule
from swapnet.executor.bench.worker import Program
from swapnet.executor.engine import Engine
from swapnet.process.cgroup import MemoryGroup
from tests.helpers.control_groups import stand_in
from tests.helpers.engines import BuildToy

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("kernel memory")]

DIES_LATER = """#!/bin/sh
read request; echo '{"ready": true}'
read command; exit 1
"""


@pytest.fixture
def setup(engine: BuildToy, tmp_path: Path) -> Setup:
    """A short benchmark of a toy, beside a script in the place of another library."""
    toy = engine("images")
    python = tmp_path / "python"
    return Setup(
        engine=Engine.open(toy.folder),
        budget=Budget(toy.smallest),
        inputs=toy.feeds(),
        one_operator=one_operator_engine(tmp_path),
        others={"foreign": Other(tmp_path, "foreign", program=Program(python=python))},
        schedule=Schedule(iterations=1, warm_up_ms=0, duration_s=0, rounds=1),
    )


def script(setup: Setup, text: str) -> None:
    program = setup.others["foreign"].program
    assert program is not None
    assert program.python is not None
    program.python.write_text(text)
    program.python.chmod(0o755)


def test_an_interpreter_that_fails_is_told(setup: Setup) -> None:
    script(setup, "#!/bin/sh\necho no torch >&2; exit 1\n")
    report = bench(setup).report
    assert "no torch" in report.peers["foreign"].note
    assert report.peers["foreign"].latency_ms is None
    assert report.latency_ms.median > 0


def test_one_that_dies_later_is_told_with_its_fixed_cost(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    script(setup, DIES_LATER)
    monkeypatch.setattr(FixedCost, "warm_up", lambda _: None)
    report = bench(replace(setup, fixed_bytes={"foreign": 1 << 30})).report
    assert "the process of the foreign model ended" in report.peers["foreign"].note
    assert report.peers["foreign"].fixed_bytes == 1 << 30


def test_a_peak_with_page_cache_in_it_is_counted_again(
    setup: Setup, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "groups").mkdir()
    stand_in(monkeypatch, tmp_path / "groups")
    peaks = iter([48 << 20, 40 << 20, 64 << 20])
    monkeypatch.setattr(MemoryGroup, "peak_bytes", property(lambda _: next(peaks)))
    monkeypatch.setattr(MemoryGroup, "cached_bytes", 16 << 20)
    report = bench(replace(setup, others={}, fixed_bytes={"swapped": 32 << 20})).report
    assert report.peak_bytes == 8 << 20
    assert next(peaks, None) is None


def test_a_budget_beyond_the_machine(setup: Setup) -> None:
    with pytest.raises(BudgetError, match="more than this machine has"):
        bench(replace(setup, budget=Budget(1 << 60)))


@pytest.mark.parametrize(("missing", "words"), [("", "kernel"), ("memory.peak", "kernel, sampled")])
def test_kernels_without_a_peak_are_watched(
    setup: Setup, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, missing: str, words: str
) -> None:
    (tmp_path / "groups").mkdir()
    root = stand_in(monkeypatch, tmp_path / "groups", missing=missing)
    report = bench(replace(setup, others={})).report
    assert report.memory_accounting == words
    assert not list(root.glob("swapnet-*"))
