"""Tables, JSON, and progress: a bar on a terminal, lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import msgspec

from swapnet.files import replacing
from swapnet.progress import Progress

__all__ = ["StreamedTable", "print_table", "progress", "write_json"]


@contextmanager
def progress(title: str) -> Iterator[Progress]:
    """Show the progress of a long job on standard error."""
    started = time.perf_counter()
    if sys.stderr.isatty():
        with _bar(title) as report:
            yield report
        return
    said: set[str] = set()

    def line(stage: str, done: int, total: int) -> None:
        if stage not in said:
            said.add(stage)
            parts = f" ({total} parts)" if total > 1 else ""
            elapsed = time.perf_counter() - started
            click.echo(f"{title}: {stage}{parts} … {elapsed:.1f} s", err=True)
        del done

    yield line


@contextmanager
def _bar(title: str) -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total}"),
        TimeElapsedColumn(),
    )
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title)

        def move(stage: str, done: int, total: int) -> None:
            bar.update(task, description=f"{title}: {stage}", completed=done, total=total)

        yield move


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table; the first column is text, the others are numbers."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for index, name in enumerate(columns):
        table.add_column(name, justify="left" if index == 0 else "right", overflow="fold")
    for row in rows:
        table.add_row(*row)
    console = Console()
    Console(width=max(console.width, 120) if not console.is_terminal else None).print(table)


class StreamedTable:
    """A table on standard output whose rows are printed as soon as they are known.

    Parameters
    ----------
    columns
        Width of each column by its name; the first one is text, the others are numbers.
    """

    def __init__(self, columns: Mapping[str, int]) -> None:
        self._widths = tuple(columns.values())
        self.row(*columns)
        self.row(*("-" * width for width in self._widths))

    def row(self, *cells: str) -> None:
        """Print one row; longer cells widen their column in it."""
        first, *others = zip(cells, self._widths, strict=True)
        padded = [first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)]
        click.echo("  ".join(padded))


def write_json(value: Any, target: str) -> None:
    """Write JSON to a file, or to standard output for ``-``."""
    text = msgspec.json.format(msgspec.json.encode(value), indent=2).decode()
    if target == "-":
        click.echo(text)
    else:
        with replacing(Path(target)) as temporary:
            temporary.write_text(text + "\n")
