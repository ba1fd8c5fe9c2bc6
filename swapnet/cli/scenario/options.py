"""Options that run and forecast share."""

from __future__ import annotations

from math import inf, nan

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

_LIKE_RATES = "give rates like --rates objects=2.5,signs=0.1"

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
    pairs = [_rate(part) for value in values for part in value.split(",") if part.strip()]
    rates = dict(pairs)
    if len(rates) < len(pairs):
        raise InputError(
            f"--rates {','.join(values)} gives two rates to one DNN",
            why=f"there are {len(pairs)} rates of {len(rates)} DNNs",
            hint=_LIKE_RATES,
        )
    return rates


def _rate(text: str) -> tuple[str, float]:
    name, _, number = text.rpartition("=")
    try:
        rate_per_s = float(number)
    except ValueError:
        rate_per_s = nan
    if not name.strip() or not 0 < rate_per_s < inf:
        raise InputError(
            f"{text.strip()!r} is not a rate",
            why="it must be the name of a DNN, =, and a number of requests per second above 0",
            hint=_LIKE_RATES,
        )
    return name.strip(), rate_per_s


rates_option = click.option(
    "--rates",
    "rates_per_s",
    multiple=True,
    metavar="NAME=N,…",
    callback=_rates_per_s,
    help="Requests per second of some DNNs in place of the scenario's, before --speed; names as "
    "`scenario list` shows them.",
)


def _speed(_: click.Context, __: click.Parameter, value: float) -> float:
    if not 0 < value < inf:
        raise InputError(
            f"a speed of {value} is not possible",
            why="all rates are multiplied by it: it must be a number above 0",
            hint="leave it out for the scenario's own rates",
        )
    return value


speed_option = click.option(
    "--speed",
    default=1.0,
    show_default=True,
    type=float,
    metavar="FACTOR",
    callback=_speed,
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
    help="Bytes per second of slower storage than this device's, like 400MB. [default: this one's]",
)
