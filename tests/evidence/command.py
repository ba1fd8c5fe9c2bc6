"""Commands of the evidence: they end as those of ``swapnet`` do."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import click

from swapnet.errors import SwapnetError

__all__ = ["run"]


def run(command: click.Command, arguments: Sequence[str] | None = None) -> None:
    """Run a command and exit, with status 2 for a user's error.

    Parameters
    ----------
    command
        With options of its own.
    arguments
        By default those of the process.
    """
    try:
        command.main(arguments)
    except SwapnetError as error:
        click.echo(f"swapnet: error: {error}".replace("\n", "\n  "), err=True)
        sys.exit(2)
