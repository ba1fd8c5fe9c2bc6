"""``swapnet scenario forecast``."""

from __future__ import annotations

from pathlib import Path

import click

from swapnet.budget import Budget
from swapnet.cli.console import print_table, write_json
from swapnet.cli.scenario.options import scenario_options
from swapnet.cli.scenario.parts import parts_of, scenario_path
from swapnet.executor.device import Device, available_processors
from swapnet.executor.runtime.memory import together
from swapnet.executor.scenario.forecast import candidate, forecast
from swapnet.executor.scenario.scenario import at_rates, load_scenario
from swapnet.units import format_size

__all__ = ["command"]


@click.command("forecast")
@scenario_options(requests=2_000)
@click.option("--json", "json_target", metavar="FILE", help="Write the forecast; - for stdout.")
def command(
    scenario: str,
    budget: str,
    storage_bytes_per_s: float | None,
    requests: int,
    rates_per_s: dict[str, float],
    speed: float,
    seed: int,
    threads: int | None,
    engines: Path,
    json_target: str | None,
) -> None:
    """Predict latency and memory of a scenario, on a virtual clock with measured delays."""
    chosen = at_rates(load_scenario(scenario_path(scenario)), rates_per_s, speed)
    parsed = Budget.parse(budget)
    parsed.check_fixed()
    device = Device(threads or available_processors())
    parts = parts_of(chosen, engines, device)
    budget_bytes = parsed.resolve(together([part.manifest for part in parts]))
    candidates = [
        candidate(part.entry, part.engine, storage_bytes_per_s=storage_bytes_per_s)
        for part in parts
    ]
    found = forecast(candidates, budget_bytes, requests=requests, seed=seed)
    if json_target:
        write_json(found, json_target)
    if json_target != "-":
        names = [entry.name for entry in chosen.models]
        print_table(
            f"{chosen.title}; mean ms and memory for weights within {format_size(budget_bytes)}",
            ["split", "weighted ms", "missed", *names],
            [
                (
                    each.rule,
                    f"{each.weighted_latency_ms:.1f}",
                    str(sum(each.misses)),
                    *(
                        f"{ms:.0f} ({format_size(nbytes)})"
                        for ms, nbytes in zip(each.latency_ms, each.share_bytes, strict=True)
                    ),
                )
                for each in found
            ],
        )
