"""``swapnet scenario run``."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any

import click

from swapnet.budget import Budget
from swapnet.cli.console import progress, write_json
from swapnet.cli.options import trace_options
from swapnet.cli.scenario.options import scenario_options
from swapnet.cli.scenario.parts import parts_of, scenario_path
from swapnet.cli.scenario.table import show
from swapnet.errors import InputError
from swapnet.executor.device import Device, available_processors
from swapnet.executor.pace import Pace
from swapnet.executor.report.page import save_page
from swapnet.executor.report.trace import trace_file
from swapnet.executor.scenario.experiment import experiment
from swapnet.executor.scenario.experiment_options import OTHERS, UNLIMITED, ExperimentOptions
from swapnet.executor.scenario.page import scenario_page
from swapnet.executor.scenario.scenario import at_rates, load_scenario
from swapnet.executor.scenario.steps import parse_steps
from swapnet.files import check_writable, working_folder

__all__ = ["command"]


@click.command("run")
@scenario_options(requests=50)
@click.option("--memory-limit", is_flag=True, help="Enforce the budget in the kernel; needs root.")
@click.option(
    "--compare",
    "compared",
    multiple=True,
    metavar="WAY,…",
    help="Other ways to share the budget: equal, proportional, whole-model; unlimited always runs.",
)
@click.option(
    "--rounds",
    default=4,
    show_default=True,
    type=click.IntRange(1),
    help="Rounds of each way; they share the requests.",
)
@click.option(
    "--lanes",
    default=1,
    show_default=True,
    type=click.IntRange(1, 2),
    metavar="1|2",
    help="Number of inferences that compute at the same time.",
)
@click.option(
    "--budget-steps",
    metavar="SHARE:SIZE,…",
    help="Change the budget at these shares of the run, to percent of --budget or to sizes, like "
    "0.33:50%,0.66:100%.",
)
@click.option("--json", "json_target", metavar="FILE", help="Write the report; - for stdout.")
@trace_options
def command(
    scenario: str,
    budget: str,
    compared: tuple[str, ...],
    storage_bytes_per_s: float | None,
    rates_per_s: dict[str, float],
    speed: float,
    threads: int | None,
    engines: Path,
    json_target: str | None,
    export_trace: str | None,
    trace_inferences: int,
    report_target: str | None,
    **options: Any,
) -> None:
    """Run the DNNs of a scenario under one budget, and compare with unlimited memory.

    All ways to share the budget are open at the same time, so this machine needs memory for all of
    them. A round ends when the DNN with the lowest rate has got its requests.
    """
    from swapnet.builder.one_operator import one_operator_engine

    path = scenario_path(scenario)
    chosen = at_rates(load_scenario(path), rates_per_s, speed)
    parsed = Budget.parse(budget)
    parsed.check_fixed()
    others = _others(compared)
    options["budget_steps"] = options["budget_steps"] or ""
    parse_steps(options["budget_steps"], 1 << 30)  # before engines are built
    check_writable(json_target, export_trace)
    pace = None if storage_bytes_per_s is None else Pace(storage_bytes_per_s)
    device = Device(threads or available_processors(), pace=pace)
    parts = parts_of(chosen, engines, device)
    with working_folder("swapnet-") as work, progress(path.stem) as told:
        asked = ExperimentOptions(
            name=path.stem,
            scenario=chosen,
            parts=parts,
            budget=parsed,
            one_operator=one_operator_engine(work),
            device=device,
            others=others,
            trace=trace_inferences if export_trace or report_target else 0,
            command=shlex.join(["swapnet", *sys.argv[1:]]),
            **options,
        )
        outcome = experiment(asked, told)
    if json_target:
        write_json(outcome.report, json_target)
    if json_target != "-":
        show(outcome.report)
    if export_trace:
        write_json(trace_file(outcome.trace_events, outcome.report.command), export_trace)
    if report_target:
        save_page(scenario_page(outcome.report, outcome.trace_events), Path(report_target))


def _others(texts: tuple[str, ...]) -> tuple[str, ...]:
    given = [part.strip() for text in texts for part in text.split(",") if part.strip()]
    unknown = [name for name in given if name not in (*OTHERS, UNLIMITED)]
    if unknown:
        raise InputError(
            f"{unknown[0]!r} is not a way to share a budget",
            why=f"ways are {', '.join((*OTHERS, UNLIMITED))}",
            hint="write them like --compare equal,whole-model",
        )
    return tuple(name for name in OTHERS if name in given)
