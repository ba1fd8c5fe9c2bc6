"""``swapnet scenario``: one module per command."""

from __future__ import annotations

import click

from swapnet.cli.scenario import forecast, listing, run

__all__ = ["command"]


@click.group("scenario")
def command() -> None:
    """Several DNNs under one budget, with requests as a device has them."""


for module in (listing, run, forecast):
    command.add_command(module.command)
