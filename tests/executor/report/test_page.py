"""Pages of HTML: complete in one file, sorted by a click, readable in any light."""

from __future__ import annotations

import builtins
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from swapnet.errors import InputError, StorageError
from swapnet.executor.report.figures import PALETTE, curve_figure, shares_figure
from swapnet.executor.report.page import (
    Column,
    Facts,
    Listing,
    Page,
    Table,
    check_reportable,
    save_page,
)
from tests.executor.bench.conftest import CURVE, MIB
from tests.helpers.browser import console_of

pytestmark = pytest.mark.usefixtures("reporting")

TABLE = Table(
    (Column("name"), Column("took [ms]", "{:.1f}")), [("b10", 2.0), ("b9", None), ("b1", 10.0)]
)


def test_shares_and_the_rest_are_within_the_budget() -> None:
    figure = shares_figure(
        [0.0, 1.0],
        {"one": [MIB, 2 * MIB], "two": [MIB, 2 * MIB]},
        {"one": [0, 2], "two": [1, 0]},
        other_bytes=3 * MIB,
        budgets_bytes=[8 * MIB, 5 * MIB],
    )
    *areas, budget = figure.plots[0].renderers
    assert [list(area.data_source.data["y2"]) for area in areas] == [[3, 1], [4, 3], [5, 5]]
    assert list(budget.data_source.data["y"]) == [8, 5]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with a part of each kind."""
    curve = curve_figure(CURVE, (64 * MIB, 100.0), unswapped_ms=95.0, peers={"mapped": 700.0})
    shares = shares_figure(
        [0.0, 1.0, 2.0],
        {"one": [MIB, MIB, 2 * MIB], "two": [MIB, MIB, MIB]},
        {"one": [0, 2, 0], "two": [1, 0, 0]},
        other_bytes=MIB,
        budgets_bytes=[4 * MIB] * 3,
    )
    path = tmp_path_factory.mktemp("page") / "page.html"
    page = Page(
        "a <model>",
        "on a machine",
        [("good", "fine")],
        [
            Facts([("Latency", "2 ms", "median")]),
            *("Plots & tables", curve, shares, TABLE),
            Listing([("command", "swapnet bench <toy> & more")]),
        ],
    )
    save_page(page, path)
    return path


class _Elements(HTMLParser):
    """Elements outside of scripts: what they would fetch, and cells of tables."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.values: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        known = dict(attrs)
        self.fetched += [str(known[key]) for key in ("src", "href") if key in known]
        if tag == "td":
            self.values.append(known["data-value"] or "")


@pytest.mark.slow
def test_a_page_is_complete_and_says_what_it_was_given(whole: Path) -> None:
    text = whole.read_text()
    assert len(text.encode()) < 2_000_000
    found = _Elements()
    found.feed(text)
    assert found.fetched == []
    assert found.values == ["b10", "2.0", "b9", "", "b1", "10.0"]
    assert "default-src 'none'" in text
    assert "a &lt;model&gt;" in text
    assert "<h2>Plots &amp; tables</h2>" in text
    assert "swapnet bench &lt;toy&gt; &amp; more" in text


def test_a_page_without_plots_has_no_library(tmp_path: Path) -> None:
    save_page(Page("words", "only", [], [TABLE]), tmp_path / "page.html")
    assert len((tmp_path / "page.html").read_text()) < 20_000


def test_a_page_that_can_not_be_written(tmp_path: Path) -> None:
    with pytest.raises(StorageError):
        save_page(Page("words", "only", [], []), tmp_path / "nowhere" / "page.html")


def test_missing_values_are_shown_as_such() -> None:
    assert [Column("a", "{:.2f}").shown(value) for value in (None, 1)] == ["-", "1.00"]


def test_what_draws_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name.startswith("bokeh"):
            raise ImportError("No module named 'bokeh'")
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(InputError, match="reports need Bokeh") as caught:
        check_reportable()
    assert caught.value.hint == "pip install 'swapnet-trt[report]'"


CLICKS = """<script>addEventListener("load", () => {
  const [name, took] = document.querySelectorAll("th button");
  for (const title of [name, took, took]) {
    title.click();
    const rows = [...document.querySelectorAll("tbody tr")];
    console.info("order " + rows.map(row => row.cells[0].textContent).join(" "));
  }
});</script></body>"""


@pytest.mark.slow
def test_a_browser_draws_it_sorts_it_and_complains_of_nothing(whole: Path, tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text(whole.read_text().replace("</body>", CLICKS))
    said, picture = console_of(tmp_path / "page.html", tmp_path, width=400, is_dark=True)
    (idle,) = (line for line in said if "document idle" in line)
    said.remove(idle)
    assert said == ["order b1 b9 b10", "order b9 b10 b1", "order b1 b10 b9"]
    pixels = np.asarray(Image.open(picture).convert("RGB")).reshape(-1, 3)
    colors, counts = np.unique(pixels, axis=0, return_counts=True)
    assert colors[counts.argmax()].max() < 0x30, "the paper is dark"
    drawn = {tuple(color) for color in colors}
    for color in PALETTE[:2]:
        assert tuple(bytes.fromhex(color[1:])) in drawn
