"""``swapnet scenario simulate``."""

from __future__ import annotations

from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from swapnet.cli.console import print_table, progress, write_json
from swapnet.files import check_writable

if TYPE_CHECKING:
    from swapnet.executor.runtime.simulate import Outcome

__all__ = ["command"]

_POLICIES = ("deadline", "first-come", "fair", "shortest")

_SIZES = (10, 100, 1000)
"""Models, to show how a scheduler's work grows with them."""

_GROWTH_REQUESTS = 100_000
"""Enough to measure that work."""


@click.command("simulate")
@click.option(
    "--models", "count", type=click.IntRange(1), default=1000, show_default=True, help="DNNs."
)
@click.option(
    "--requests",
    type=click.IntRange(1),
    default=1_000_000,
    show_default=True,
    help="Of all DNNs together.",
)
@click.option(
    "--policy",
    type=click.Choice([*_POLICIES, "all"]),
    default="all",
    show_default=True,
    help="The order of requests.",
)
@click.option(
    "--arrivals",
    type=click.Choice(["poisson", "bursty"]),
    default="poisson",
    show_default=True,
    help="How requests come.",
)
@click.option(
    "--utilisation",
    type=click.FloatRange(0, 2, min_open=True),
    default=0.7,
    show_default=True,
    help="Of the busier one of compute and storage.",
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--json", "json_target", metavar="FILE", help="As JSON; - for stdout.")
def command(
    count: int,
    requests: int,
    policy: str,
    arrivals: str,
    utilisation: float,
    seed: int,
    json_target: str | None,
) -> None:
    """Which policy, and what it costs: the scheduler on a virtual clock.

    Made-up DNNs like those of the zoo share a quarter of the memory beyond their smallest budgets.
    A million requests take about half a minute for each policy.
    """
    if isnan(utilisation):
        raise click.BadParameter("nan is not a number", param_hint="--utilisation")
    if json_target and json_target != "-":
        check_writable(Path(json_target))
    policies = _POLICIES if policy == "all" else (policy,)
    sizes = [*(size for size in _SIZES if size < count), count]
    outcomes: dict[tuple[int, str], Outcome] = {}
    with progress("simulation") as report:
        for size in sizes:
            for name in policies:
                report(f"{size} DNNs, {name}", len(outcomes), len(sizes) * len(policies))
                some = requests if size == count else min(requests, _GROWTH_REQUESTS)
                outcomes[size, name] = _outcome(size, some, name, arrivals, utilisation, seed)
    if json_target:
        write_json(
            {
                "schema": "swapnet-simulation/1",
                "models": count,
                "requests": requests,
                "arrivals": arrivals,
                "utilisation": utilisation,
                "seed": seed,
                "policies": [_record(name, outcomes[count, name]) for name in policies],
                "growth": [
                    {
                        "models": size,
                        "policy": name,
                        "scheduling_us_per_request": outcome.scheduling_us_per_request,
                    }
                    for (size, name), outcome in outcomes.items()
                ],
            },
            json_target,
        )
    if json_target != "-":
        title = f"{count} DNNs, {requests} requests ({arrivals}), utilisation {utilisation:g}"
        _print(title, {name: outcomes[count, name] for name in policies})
        _print_growth(sizes, policies, outcomes)


def _outcome(
    count: int, requests: int, policy: str, arrivals: str, utilisation: float, seed: int
) -> Outcome:
    from swapnet.executor.runtime.arrivals import ARRIVALS
    from swapnet.executor.runtime.fleet import fleet
    from swapnet.executor.runtime.simulate import simulate

    models = fleet(count, seed, utilisation=utilisation)
    return simulate(models, ARRIVALS[arrivals](models, requests, seed), policy=policy)


def _record(policy: str, outcome: Outcome) -> dict[str, Any]:
    return {
        "policy": policy,
        "weighted_latency_ms": outcome.weighted_latency_ms,
        "latency_ms": {f"p{at}": outcome.percentile_ms(at) for at in (50, 90, 95, 99)},
        "deadline_misses": sum(outcome.misses),
        "miss_fraction": outcome.miss_fraction,
        "most_waiting": outcome.most_waiting,
        "compute_utilisation": outcome.compute_utilisation,
        "storage_utilisation": outcome.storage_utilisation,
        "prefetched_fraction": outcome.prefetched_fraction,
        "scheduling_us_per_request": outcome.scheduling_us_per_request,
        "simulated_s": outcome.simulated_s,
        "wall_s": outcome.wall_s,
    }


def _print(title: str, outcomes: dict[str, Outcome]) -> None:
    print_table(
        title,
        [
            "policy",
            "weighted ms",
            "p99 ms",
            "missed",
            "most waiting",
            "compute",
            "storage",
            "read before asked",
            "scheduling µs",
            "took s",
        ],
        [
            (
                policy,
                f"{outcome.weighted_latency_ms:.1f}",
                f"{outcome.percentile_ms(99):.0f}",
                f"{outcome.miss_fraction:.2%}",
                str(outcome.most_waiting),
                f"{outcome.compute_utilisation:.0%}",
                f"{outcome.storage_utilisation:.0%}",
                f"{outcome.prefetched_fraction:.0%}",
                f"{outcome.scheduling_us_per_request:.1f}",
                f"{outcome.wall_s:.1f}",
            )
            for policy, outcome in outcomes.items()
        ],
    )


def _print_growth(
    sizes: list[int], policies: tuple[str, ...], outcomes: dict[tuple[int, str], Outcome]
) -> None:
    print_table(
        "Scheduling, µs per request",
        ["DNNs", *policies],
        [
            (
                str(size),
                *(f"{outcomes[size, name].scheduling_us_per_request:.1f}" for name in policies),
            )
            for size in sizes
        ],
    )
