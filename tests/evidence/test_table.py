"""The suite as Markdown."""

from __future__ import annotations

import pytest

from tests.evidence.ablations import ABLATIONS
from tests.evidence.cases import ABLATION
from tests.evidence.conftest import MIB, a_case, a_peer, an_outline
from tests.evidence.table import ablation_page, results_page
from tests.evidence.targets import check_targets


@pytest.fixture
def page() -> str:
    """A page with all kinds of cases."""
    offload = a_peer(9.0, fixed_bytes=240 * MIB, max_rel_error=2e-6)
    cases = [
        a_case(),
        a_case("bert_base", peers={"offload": offload}),
        a_case("bert_base", "smallest", peers={"mapped": a_peer(None, note="it was killed")}),
        a_case("other", note="needs at least 9MiB"),
        a_case("other", kind=ABLATION),
    ]
    outlines = [an_outline("vgg19", smallest_bytes=27 * MIB)]
    return results_page(cases, outlines, check_targets(cases, outlines), ["accelerate: left out"])


def test_every_row_has_as_many_cells(page: str) -> None:
    for table in page.split("\n\n"):
        rows = [line for line in table.splitlines() if line.startswith("|")]
        assert len({row.count("|") for row in rows}) <= 1


def test_rows(page: str) -> None:
    assert (
        "| toy | weights:25% | 64.0 | 100.0 | 100.0 | 1.05 | 1.05 | 1.02 | 0.98 | 0.94 | 7.0 | — |"
        in page
    )
    assert "| 9.0 |" in page
    assert "| fails | — |" in page
    assert page.count("| other |") == 1


def test_what_must_be_shown(page: str) -> None:
    assert "| 1. ratio_to_bound, median | 1.050 | ≤ 1.2 | yes | 3 cases |" in page
    assert "| 5. smallest budget over its ideal, vgg19 | 1.500 | ≤ 1.2 | **no** |" in page
    assert "| vgg19 | 27MiB | 18MiB | 1.50 | activations take 8MiB |" in page


def test_machine_and_remarks(page: str) -> None:
    assert "- A processor, 2 processors, 8GiB, Linux 6.1; storage 1.50 to 1.50 GB/s idle" in page
    assert "- accelerate: left out" in page
    assert "- other at weights:25%: needs at least 9MiB" in page
    assert "- bert_base at smallest, mapped: it was killed" in page
    assert "its process takes 240MiB" in page
    assert "2.0e-06" in page


def test_a_page_of_nothing() -> None:
    assert "## What must be shown" in results_page([], [], [])


def test_ablations() -> None:
    found = {name: a_peer(1.25, streamed_bytes=50 * MIB) for name in ABLATIONS}
    found["no-resident"] = a_peer(None, note="it does not fit")
    del found["no-cyclic"]
    page = ablation_page(
        [a_case(), a_case(kind=ABLATION, peers=found), a_case(kind=ABLATION, note="killed")]
    )
    times = "1.25 (50.0 MiB read)"
    assert f"| toy | weights:25% | 100.0 | {times} | fails | — |" in page
    assert "| toy | weights:25% | — | — | — | — |" in page
    assert "- toy at weights:25%, no-resident: it does not fit" in page
    assert "- toy at weights:25%: killed" in page
