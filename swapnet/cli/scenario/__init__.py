"""``swapnet scenario``."""

from __future__ import annotations

import click

from swapnet.cli.console import print_table
from swapnet.cli.scenario import forecast, run
from swapnet.cli.scenario.parts import scenarios
from swapnet.executor.scenario.scenario import load_scenario

__all__ = ["command"]


@click.group("scenario")
def command() -> None:
    """Run several DNNs under one budget, with requests as on a device."""


@command.command("list")
def list_scenarios() -> None:
    """Show the scenarios that come with SwapNet."""
    rows = []
    for name, path in scenarios().items():
        scenario = load_scenario(path)
        dnns = ", ".join(
            f"{entry.name} ({entry.source}, {entry.rate_per_s:g}/s)" for entry in scenario.models
        )
        rows.append((name, scenario.title, dnns))
    print_table("", ["name", "what", "DNNs"], rows)


command.add_command(run.command)
command.add_command(forecast.command)
