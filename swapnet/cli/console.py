"""Everything that a user reads: text, tables, JSON, progress, and how much of it."""

from __future__ import annotations

import logging
import os
import re
import sys
import textwrap
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from swapnet.files import replacing
from swapnet.progress import Progress, silent

if TYPE_CHECKING:
    from rich.console import Console

__all__ = [
    "is_quiet",
    "is_verbose",
    "log_lines",
    "print_table",
    "print_text",
    "progress",
    "say",
    "with_words",
    "write_json",
]

_WORDS = "swapnet.words"
_WORD_OPTIONS = {
    "quiet": "Print results, warnings and errors only.",
    "verbose": "Print more: each stage, and what is chosen.",
}
_LOGGER = logging.getLogger("swapnet")
_NUMBER = re.compile(r"[-+]?\d\S*( of \d+| ms| s| dB| \(\S+\))?|equal|nan|[-+]?inf|—|-|")
_PIPED_COLUMNS = 120
_DRAWN_PER_S = 2
"""Drawing takes the processor from what is measured: a line that moves twice a second is enough."""


def with_words(command: click.Command) -> click.Command:
    """The command, with ``--quiet`` and ``--verbose`` for it and for all commands in it."""
    if isinstance(command, click.Group):
        for inside in command.commands.values():
            with_words(inside)
    known = {option.name for option in command.params}
    for name, text in _WORD_OPTIONS.items():
        if name not in known:
            option = click.Option(
                [f"-{name[0]}", f"--{name}"],
                is_flag=True,
                expose_value=False,
                callback=_choose_words,
                help=text,
            )
            command.params.append(option)
    return command


def _choose_words(context: click.Context, option: click.Parameter, given: bool) -> None:
    if given:
        context.meta[_WORDS] = option.name
        _LOGGER.setLevel(logging.INFO if option.name == "verbose" else logging.WARNING)


def _words() -> str:
    context = click.get_current_context(silent=True)
    return "" if context is None else str(context.meta.get(_WORDS, ""))


def is_quiet() -> bool:
    """Whether the user wants results, warnings and errors only."""
    return _words() == "quiet"


def is_verbose() -> bool:
    """Whether the user wants explanations, stages and the lines of the logger ``swapnet``."""
    return _words() == "verbose"


class _Lines(logging.Handler):
    """Log records as lines on standard error, above a bar where one is drawn."""

    def emit(self, record: logging.LogRecord) -> None:
        print_text(self.format(record), err=True)


@contextmanager
def log_lines() -> Iterator[None]:
    """Print warnings of the logger ``swapnet``; ``--verbose`` adds what informs."""
    handler, level = _Lines(), _LOGGER.level
    handler.setFormatter(logging.Formatter("%(asctime)s %(name)s: %(message)s", "%H:%M:%S"))
    _LOGGER.setLevel(logging.WARNING)
    _LOGGER.addHandler(handler)
    try:
        yield
    finally:
        _LOGGER.removeHandler(handler)
        _LOGGER.setLevel(level)


def print_text(text: str = "", *, err: bool = False) -> None:
    """Print lines; on a terminal they are wrapped between words, elsewhere they stay whole."""
    stream = sys.stderr if err else sys.stdout
    if stream.isatty():
        width = _width(stream.fileno())
        text = "\n".join(_wrapped(line, width) for line in text.splitlines())
    if err:
        _write_err(text)
    else:
        click.echo(text)


def _write_err(text: str) -> None:
    """Write lines above a bar: `click.echo` writes past the stream that rich puts in its place."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def _width(terminal: int) -> int:
    columns = os.environ.get("COLUMNS", "")
    try:
        return int(columns) if columns.isdigit() else os.get_terminal_size(terminal).columns or 80
    except OSError:
        return 80


def _wrapped(line: str, width: int) -> str:
    indent = line[: len(line) - len(line.lstrip())]
    return textwrap.fill(
        line,
        width,
        subsequent_indent=f"{indent}  ",
        break_long_words=False,
        break_on_hyphens=False,
    )


def say(line: str) -> None:
    """One line of information on standard error; none for ``--quiet``."""
    if not is_quiet():
        print_text(line, err=True)


@contextmanager
def progress(title: str, *, lines: bool = True) -> Iterator[Progress]:
    """Show the progress of a job on standard error; nothing for ``--quiet``.

    A terminal shows a line that moves until the job ends, even where no progress is reported.
    Elsewhere, and with ``--verbose``, each stage is a line.

    Parameters
    ----------
    title
        Name of the job.
    lines
        False for a job that is short in most cases: it prints no lines where there is no terminal.
    """
    if is_quiet():
        yield silent
        return
    line = _as_lines(title) if lines or is_verbose() else silent
    if not sys.stderr.isatty():
        yield line
        return
    from rich.console import Console

    console = Console(stderr=True)
    if console.is_dumb_terminal:
        yield line
        return
    with _bar(title, console) as move:

        def both(stage: str, done: int, total: int) -> None:
            line(stage, done, total)
            move(stage, done, total)

        yield both if is_verbose() else move


def _as_lines(title: str) -> Progress:
    started = time.perf_counter()
    said: set[str] = set()

    def line(stage: str, done: int, total: int) -> None:
        name = stage.partition(", ")[0]
        if name not in said:
            said.add(name)
            parts = f" ({total} parts)" if total > 1 else ""
            elapsed = time.perf_counter() - started
            _write_err(f"{title}: {name}{parts} … {elapsed:.1f} s")
        del done

    return line


@contextmanager
def _bar(title: str, console: Console) -> Iterator[Progress]:
    from rich.progress import BarColumn, ProgressColumn, Task, TextColumn
    from rich.progress import Progress as Bar
    from rich.table import Column
    from rich.text import Text

    started = time.perf_counter()

    class Numbers(ProgressColumn):
        """Parts, seconds since the job began, and those that this stage has left."""

        def render(self, task: Task) -> Text:
            numbers = [f"{time.perf_counter() - started:.0f} s"]
            if task.total is not None:
                numbers.insert(0, f"{task.completed:.0f}/{task.total:.0f}")
                if task.completed:  # rich forgets the speed where the total changes
                    left_s = (task.elapsed or 0) * (task.total / task.completed - 1)
                    numbers.append(f"{left_s:.0f} s left")
            elif task.completed:
                numbers.insert(0, f"{task.completed:.0f}")
            return Text(", ".join(numbers))

    rest = Column(ratio=1, no_wrap=True, overflow="ellipsis")
    with Bar(
        BarColumn(bar_width=16),
        Numbers(Column(no_wrap=True)),
        TextColumn("{task.description}", markup=False, table_column=rest),
        expand=True,
        console=console,
        transient=True,
        refresh_per_second=_DRAWN_PER_S,
        redirect_stdout=False,
    ) as bar:
        name, task = "", bar.add_task(title, total=None)

        def move(stage: str, done: int, total: int) -> None:
            nonlocal name, task
            text, known = f"{title}: {stage}", total if total > 1 else None
            if (begun := stage.partition(", ")[0]) != name:
                bar.remove_task(task)
                name, task = begun, bar.add_task(text, total=known)
            bar.update(task, description=text, completed=done, total=known)

        yield move


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table: numbers to the right, and words whole where the terminal has room for them."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    width = console.width if console.is_terminal else max(console.width, _PIPED_COLUMNS)
    cells = [[row[index] for row in rows] for index in range(len(columns))]
    whole = [[name, *column] for name, column in zip(columns, cells, strict=True)]
    gap = 2 if any(_column_widths(whole, width, 2)) else 1
    widths = _column_widths(whole, width, gap)
    table = Table(
        box=SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, gap - 1, 0, 0),
    )
    for name, column, wide in zip(columns, cells, widths, strict=True):
        is_number = all(map(_NUMBER.fullmatch, column))
        table.add_column(
            name, justify="right" if is_number else "left", overflow="fold", width=wide
        )
    for row in rows:
        table.add_row(*map(Text, row))
    if title:
        print_text(title)
    Console(width=width).print(table)


def _column_widths(columns: Sequence[Sequence[str]], width: int, gap: int) -> list[int | None]:
    """Widths that break no word; None for all where there is too little room for that.

    ``gap`` is the room between two columns.
    """
    widths = [max(map(len, column)) for column in columns]
    longest = [max((len(word) for cell in c for word in cell.split()), default=0) for c in columns]
    excess = sum(widths) + gap * (len(columns) - 1) - width
    while excess > 0:
        spare = [w if w > least else 0 for w, least in zip(widths, longest, strict=True)]
        if not any(spare):
            return [None] * len(columns)
        widths[spare.index(max(spare))] -= 1
        excess -= 1
    return [*widths]


def write_json(value: Any, target: str) -> None:
    """Write JSON to a file, or to standard output for ``-``."""
    text = msgspec.json.format(msgspec.json.encode(value), indent=2).decode()
    if target == "-":
        click.echo(text)
    else:
        with replacing(Path(target)) as temporary:
            temporary.write_text(text + "\n")
