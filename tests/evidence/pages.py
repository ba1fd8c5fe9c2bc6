"""Pages of what was measured: tables, the place of one in a page, the line that says where."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Sequence
from pathlib import Path

import onnxruntime

from swapnet.errors import InputError
from swapnet.executor.device import Device
from swapnet.files import replacing

__all__ = ["DOCS", "check_page", "conditions", "table", "update_page", "write_page"]

DOCS = Path(__file__).parents[2] / "docs"
"""The pages that are published."""


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table.

    Parameters
    ----------
    columns
        Titles; one that ends with a colon is of numbers, and written without it.
    rows
        Cells of each row, one for each column.

    Raises
    ------
    ValueError
        A row has another number of cells.
    """
    lines = [
        f"| {' | '.join(title.removesuffix(':') for title in columns)} |",
        f"|{'|'.join('---:' if title.endswith(':') else '---' for title in columns)}|",
    ]
    for row in rows:
        if len(row) != len(columns):
            raise ValueError(f"{len(row)} cells in a table of {len(columns)} columns: {row}")
        lines.append(f"| {' | '.join(row)} |")
    return lines


def conditions() -> str:
    """Versions and threads of this process, in one line."""
    return (
        f"ONNX Runtime {onnxruntime.__version__}, Python {platform.python_version()}, "
        f"{Device().threads} threads."
    )


def write_page(page: Path, lines: Iterable[str]) -> None:
    """Write a whole page.

    Raises
    ------
    StorageError
        The page can't be written.
    """
    with replacing(page) as temporary:
        temporary.write_text("\n".join(lines) + "\n")


def check_page(page: Path, name: str) -> None:
    """Whether a page has a place of this name, asked before the work is done.

    Raises
    ------
    InputError
        It has none.
    """
    _around(page, name)


def update_page(page: Path, table: str, name: str = "bench-gpu") -> None:
    """Replace what stands between ``<!-- NAME: begin -->`` and ``<!-- NAME: end -->`` in a page.

    Parameters
    ----------
    page
        A Markdown file.
    table
        What it shows there from now on.
    name
        The place.

    Raises
    ------
    InputError
        The page has no such place.
    StorageError
        The page can't be written.
    """
    head, tail = _around(page, name)
    with replacing(page) as temporary:
        temporary.write_text(f"{head}\n\n{table}\n\n{tail}")


def _around(page: Path, name: str) -> tuple[str, str]:
    """Text up to the begin of a place, and from its end on, with both marks."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    head, found, rest = page.read_text().partition(begin)
    _, closed, tail = rest.partition(end)
    if not (found and closed):
        raise InputError(
            f"{page} has no place for the table",
            why=f"one of {begin} and {end} is missing",
            hint="write both marks into the page, the first one above the other",
        )
    return head + begin, end + tail
