"""Results of the kit in docs/gpu.md."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.evidence.gpu import GpuCase
from tests.gpu_kit import report
from tests.gpu_kit.report import Answer, Results, as_section, write_page

CASE = GpuCase(
    model="toy",
    backend="onnxruntime-cuda 1",
    style="external",
    budget="weights:25%",
    blocks=3,
    budget_bytes=1 << 20,
    gpu_bytes=1 << 20,
    streamed_bytes=1 << 20,
    unswapped_ms=1.0,
    swapped_ms=2.0,
    ratio_to_unswapped=2.0,
    bound_ms=1.5,
    ratio_to_bound=1.33,
    overlap_fraction=0.75,
    max_rel_error=0.0,
)


def results(*figures: dict[str, Any], part: str = "a", simulated: bool = False) -> Results:
    answers = [Answer(f"check-{n}", "Asks.", "ok", 1.5, "", f) for n, f in enumerate(figures)]
    return Results(
        part=part, simulated=simulated, date="2026-01-02", python="3.12", answers=tuple(answers)
    )


def test_figures_with_parts_are_tables_and_others_a_line() -> None:
    text = as_section(results({"gpu": "H200"}, {"x_ms": 1.23456, "25%": {"n": 1}, "50%": {"n": 2}}))
    assert text.startswith("### Part a, 2026-01-02, on H200")
    assert "| check-1 | ok | 1.5 | Asks. |" in text
    assert "x_ms 1.235" in text
    assert "| | n |\n|---|---:|\n| 25% | 1 |\n| 50% | 2 |" in text


def test_a_simulated_gpu_is_named() -> None:
    assert "**simulated**" in as_section(results({}, simulated=True))


def test_cases_of_overlap_are_rows() -> None:
    case = msgspec.to_builtins(CASE)
    text = as_section(results({"disk": {"kernels_ms": 3.0, "cases": [case]}}))
    assert "| disk, weights:25% | 1 | 2 | 1.33 | 0.75 |" in text


def test_a_page_takes_all_parts_and_the_benchmark(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "docs" / "gpu.md"
    page.parent.mkdir()
    places = ("bench-gpu", "gpu-kit")
    page.write_text("".join(f"<!-- {name}: begin --><!-- {name}: end -->\n" for name in places))
    found = {"a": results({"gpu": "H200"}), "b": results({"cases": [CASE]}, part="b")}
    for part, one in found.items():
        (tmp_path / f"results-{part}.json").write_bytes(msgspec.json.encode(one))
    monkeypatch.setattr(report, "ROOT", tmp_path)
    report.main(str(tmp_path))
    text = page.read_text()
    assert text.index("| toy |") < text.index("### Part a") < text.index("### Part b")
    assert "`sh gpu-kit/run.sh` on H200" in text


def test_a_folder_without_results_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no results of the kit"):
        write_page(tmp_path / "gpu.md", tmp_path)
