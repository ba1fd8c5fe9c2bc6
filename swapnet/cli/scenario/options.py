"""Options that run and forecast share."""

from __future__ import annotations

import click

from swapnet.errors import InputError
from swapnet.units import parse_size

__all__ = ["budget_option", "scenario_argument", "seed_option", "speed_option", "storage_option"]

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


def _bytes_per_s(_: click.Context, __: click.Parameter, value: str | None) -> float | None:
    if value is None:
        return None
    parsed = parse_size(value)
    if parsed < 1:
        raise InputError(
            f"storage of {value} per second reads nothing",
            why="it must be 1 byte or more",
            hint="give bytes per second, like --storage 400MB",
        )
    return float(parsed)


storage_option = click.option(
    "--storage",
    "storage_bytes_per_s",
    metavar="SIZE",
    callback=_bytes_per_s,
    help="Bytes per second of another device's storage, like 400MB. [default: this one's]",
)
