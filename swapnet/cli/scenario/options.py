"""Options that run and forecast share."""

from __future__ import annotations

import click

__all__ = ["budget_option", "scenario_argument", "seed_option", "speed_option"]

scenario_argument = click.argument("scenario", metavar="FILE|NAME")
budget_option = click.option(
    "--budget",
    required=True,
    metavar="SIZE",
    help="All memory of all DNNs: 128MiB, 25% of their demand, or weights:25%.",
)
speed_option = click.option(
    "--speed",
    default=1.0,
    show_default=True,
    type=click.FloatRange(0, min_open=True),
    metavar="FACTOR",
    help="Of all rates.",
)
seed_option = click.option(
    "--seed", default=0, show_default=True, type=click.IntRange(0), help="Of the requests."
)
