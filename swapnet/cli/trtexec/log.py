"""Lines as trtexec's logger writes them."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

import click

from swapnet.version import VERSION

__all__ = ["Log"]


class Log:
    """A log with trtexec's prefix; called with a level and lines.

    Warnings and errors, ``W`` and ``E``, go to standard error. ``V`` is written where the log is
    ``verbose``. A ``quiet`` one leaves standard output to an export.
    """

    def __init__(self, command: str, *, verbose: bool, quiet: bool) -> None:
        self.command = command
        self._verbose = verbose
        self._quiet = quiet

    def __call__(self, level: Literal["V", "I", "W", "E"], *lines: str) -> None:
        is_error = level in ("W", "E")
        if not is_error and (self._quiet or (level == "V" and not self._verbose)):
            return
        now = datetime.now().strftime("[%m/%d/%Y-%H:%M:%S]")
        for line in lines:
            click.echo(f"{now} [{level}] {line}", err=is_error)

    def result(self, word: Literal["RUNNING", "PASSED", "FAILED"]) -> None:
        """The line that a harness looks for."""
        if not self._quiet:
            click.echo(f"&&&& {word} SwapNet.trtexec [SwapNet v{VERSION}] # {self.command}")
