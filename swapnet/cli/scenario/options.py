"""Options that run and forecast share."""

from __future__ import annotations

from math import isfinite

import click

from swapnet.errors import InputError
from swapnet.units import parse_size

__all__ = [
    "budget_option",
    "rates_option",
    "scenario_argument",
    "seed_option",
    "speed_option",
    "storage_option",
]

scenario_argument = click.argument("scenario", metavar="FILE|NAME")
budget_option = click.option(
    "--budget",
    required=True,
    metavar="SIZE",
    help="All memory of all DNNs: 128MiB, 25% of their demand, or weights:25%.",
)


def _rates_per_s(
    _: click.Context, __: click.Parameter, values: tuple[str, ...]
) -> dict[str, float]:
    rates: dict[str, float] = {}
    for text in (part.strip() for value in values for part in value.split(",")):
        name, *numbers = text.split("=")
        try:
            (rate,) = map(float, numbers)
        except ValueError:
            rate = 0.0
        if not (name and isfinite(rate) and rate > 0):
            raise InputError(
                f"{text!r} is not a rate",
                why="it must be the name of a DNN, =, and a number of requests per second above 0",
                hint="give rates like --rates objects=2.5,signs=0.1",
            )
        rates[name] = rate
    return rates


rates_option = click.option(
    "--rates",
    "rates_per_s",
    multiple=True,
    metavar="NAME=N,…",
    callback=_rates_per_s,
    help="Requests per second of some DNNs, in place of the scenario's.",
)
speed_option = click.option(
    "--speed",
    default=1.0,
    show_default=True,
    type=click.FloatRange(0, min_open=True),
    metavar="FACTOR",
    help="Times all rates.",
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
