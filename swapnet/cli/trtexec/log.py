"""Lines as trtexec's logger writes them."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Literal

import click

from swapnet.version import VERSION

__all__ = ["Log"]


class Log:
    """A log with trtexec's prefix; warnings and errors go to standard error.

    Parameters
    ----------
    command
        Command line, for the first and the last line.
    verbose
        Whether ``[V]`` lines are written.
    quiet
        Write nothing to standard output: an export goes there.
    """

    def __init__(self, command: str, *, verbose: bool = False, quiet: bool = False) -> None:
        self._command = command
        self._verbose = verbose
        self._quiet = quiet

    def result(self, word: Literal["RUNNING", "PASSED", "FAILED"]) -> None:
        """The line that a harness looks for."""
        if not self._quiet:
            click.echo(f"&&&& {word} SwapNet.trtexec [SwapNet v{VERSION}] # {self._command}")

    def info(self, *lines: str) -> None:
        """Lines of the report."""
        if not self._quiet:
            self._write("I", lines)

    def verbose(self, *lines: str) -> None:
        """Lines that ``--verbose`` adds."""
        if self._verbose and not self._quiet:
            self._write("V", lines)

    def warn(self, *lines: str) -> None:
        """Lines that a user should read."""
        self._write("W", lines, err=True)

    def error(self, *lines: str) -> None:
        """Reasons of a failure."""
        self._write("E", lines, err=True)

    def _write(self, level: str, lines: Iterable[str], *, err: bool = False) -> None:
        now = datetime.now().strftime("[%m/%d/%Y-%H:%M:%S]")
        for line in lines:
            click.echo(f"{now} [{level}] {line}", err=err)
