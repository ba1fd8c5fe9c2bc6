"""Arguments and options that run and forecast share."""

from __future__ import annotations

from collections.abc import Callable
from math import inf, nan

import click

from swapnet.cli.options import F, engines_option, storage_option, threads_option, together
from swapnet.errors import InputError

__all__ = ["scenario_options"]

_LIKE_RATES = "give rates like --rates objects=2.5,signs=0.1"


def scenario_options(*, requests: int) -> Callable[[F], F]:
    """The scenario, its budget, and how it is changed; ``requests`` is the default of each DNN."""
    return together(
        click.argument("scenario", metavar="FILE|NAME"),
        click.option(
            "--budget",
            required=True,
            metavar="SIZE",
            help="Memory of all DNNs: 128MiB, 25% of their demand, or weights:25%.",
        ),
        storage_option,
        click.option(
            "--requests",
            default=requests,
            show_default=True,
            type=click.IntRange(1),
            help="Least number of requests of a DNN; others get more, by their rates.",
        ),
        click.option(
            "--rates",
            "rates_per_s",
            multiple=True,
            metavar="NAME=N,…",
            callback=_rates_per_s,
            help="Requests per second of some DNNs, before --speed; names as `scenario list` "
            "shows them. [default: the scenario's]",
        ),
        click.option(
            "--speed",
            default=1.0,
            show_default=True,
            type=float,
            metavar="FACTOR",
            callback=_speed,
            help="Multiply all rates.",
        ),
        click.option(
            "--seed",
            default=0,
            show_default=True,
            type=click.IntRange(0),
            help="Seed of the requests.",
        ),
        threads_option,
        engines_option,
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
            why="a rate is the name of a DNN, =, and a number of requests per second above 0",
            hint=_LIKE_RATES,
        )
    return name.strip(), rate_per_s


def _speed(_: click.Context, __: click.Parameter, value: float) -> float:
    if not 0 < value < inf:
        raise InputError(
            f"--speed {value} is invalid",
            why="it multiplies all rates, so it must be a finite number above 0",
            hint="leave it out for the scenario's own rates",
        )
    return value
