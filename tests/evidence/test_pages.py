from __future__ import annotations

from pathlib import Path

import pytest

from swapnet.errors import InputError
from tests.evidence.pages import check_page, table, update_page, write_page


def test_numbers_stand_on_the_right() -> None:
    lines = table(["model", "ms:"], [("toy", "1.5"), ("other", "20.0")])
    assert lines == ["| model | ms |", "|---|---:|", "| toy | 1.5 |", "| other | 20.0 |"]


def test_a_row_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="1 cells in a table of 2 columns"):
        table(["model", "ms:"], [("toy",)])


def test_a_page_takes_the_table_between_its_marks(tmp_path: Path) -> None:
    page = tmp_path / "gpu.md"
    write_page(page, ["before", "<!-- it: begin -->", "old", "<!-- it: end -->", "after"])
    update_page(page, "new", "it")
    update_page(page, "newer", "it")
    assert page.read_text() == ("before\n<!-- it: begin -->\n\nnewer\n\n<!-- it: end -->\nafter\n")


@pytest.mark.parametrize(
    "text", ["nothing", "<!-- it: begin -->", "<!-- it: end --><!-- it: begin -->"]
)
def test_a_page_without_a_place_stays_as_it_is(tmp_path: Path, text: str) -> None:
    page = tmp_path / "gpu.md"
    page.write_text(text)
    with pytest.raises(InputError, match="no place for the table"):
        check_page(page, "it")
    with pytest.raises(InputError, match="no place for the table"):
        update_page(page, "new", "it")
    assert page.read_text() == text
