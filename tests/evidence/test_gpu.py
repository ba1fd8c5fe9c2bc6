from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from swapnet.testing.gpu import SimulatedAccelerator
from tests.evidence.gpu import (
    GpuCase,
    as_markdown,
    measure_cases,
)
from tests.helpers.engines import Arrays
from tests.helpers.gpu import BuildGpu


@pytest.fixture
def cases(gpu_engine: BuildGpu, feeds: Callable[[Path], Arrays]) -> list[GpuCase]:
    """A toy on a simulated GPU, at a budget that streams and at one that does not."""
    from swapnet.executor import SwapExecutor

    folder = gpu_engine("images-sliced")
    inputs = feeds(folder)
    with SwapExecutor(folder, "100%", gpu=SimulatedAccelerator()) as executor:
        expected = executor(inputs)
    return measure_cases(
        "toy",
        folder,
        {"external": folder},
        ["weights:25%", "100%"],
        inputs,
        expected,
        gpu=SimulatedAccelerator(),
        rounds=2,
        iterations=2,
    )


@pytest.mark.slow
def test_cases_say_what_was_measured(cases: list[GpuCase]) -> None:
    streamed, whole = cases
    assert (streamed.model, streamed.style, streamed.budget) == ("toy", "external", "weights:25%")
    assert streamed.streamed_bytes > 0 == whole.streamed_bytes
    assert streamed.budget_bytes < whole.budget_bytes
    assert 0 < streamed.gpu_bytes < streamed.budget_bytes
    assert whole.overlap_fraction == 1.0
    for case in cases:
        assert case.max_rel_error == 0.0
        assert case.bound_ms >= case.unswapped_ms > 0
        assert 0 <= case.overlap_fraction <= 1
        assert case.ratio_to_bound <= case.ratio_to_unswapped


def test_the_table_has_a_row_for_each_case(cases: list[GpuCase]) -> None:
    table = as_markdown(cases, "simulated", "make bench-gpu")
    assert table.startswith("`make bench-gpu` on simulated.")
    rows = [line.split("|") for line in table.splitlines() if line.startswith("|")]
    assert len(rows) == 4
    assert len(set(map(len, rows))) == 1
    assert rows[2][1].strip() == "toy"
