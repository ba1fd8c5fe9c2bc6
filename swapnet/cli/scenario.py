"""``swapnet scenario``."""

from __future__ import annotations

import shlex
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from swapnet.cli import simulate
from swapnet.cli.console import print_table, progress, write_json
from swapnet.cli.options import engines_option, threads_option
from swapnet.errors import InputError
from swapnet.files import check_writable
from swapnet.units import format_size

if TYPE_CHECKING:
    from swapnet.executor.device import Device
    from swapnet.executor.scenario.report import Line, Phase, Report
    from swapnet.executor.scenario.scenario import Entry, Scenario
    from swapnet.executor.scenario.setup import Part

__all__ = ["command", "scenario_path", "scenarios"]

_SAMPLES = 3
"""Of each DNN; the first is its example."""

_NONE = "—"


@click.group("scenario")
def command() -> None:
    """Several DNNs under one budget, with requests as a device has them."""


command.add_command(simulate.command)


@command.command("list")
def list_scenarios() -> None:
    """Show the scenarios that come with SwapNet."""
    from swapnet.executor.scenario.scenario import load_scenario

    rows = []
    for name, path in scenarios().items():
        scenario = load_scenario(path)
        dnns = ", ".join(entry.source for entry in scenario.models)
        rows.append((name, scenario.title, dnns))
    print_table("", ["name", "what", "DNNs"], rows)


@command.command("run")
@click.argument("scenario", metavar="FILE|NAME")
@click.option(
    "--budget",
    required=True,
    metavar="SIZE",
    help="All memory of all DNNs: 128MiB, 25% of their demand, or weights:25%.",
)
@click.option("--memory-limit", is_flag=True, help="Under the kernel's limit; needs root.")
@click.option(
    "--compare",
    "compared",
    multiple=True,
    metavar="WAY,…",
    help="Other ways to share the budget: equal, proportional, whole-model; unlimited always runs.",
)
@click.option(
    "--requests",
    default=50,
    show_default=True,
    type=click.IntRange(1),
    help="Of each DNN at least; others have more, by their rates.",
)
@click.option(
    "--rounds",
    default=4,
    show_default=True,
    type=click.IntRange(1),
    help="Turns of each way, between which requests are divided.",
)
@click.option(
    "--speed",
    default=1.0,
    show_default=True,
    type=click.FloatRange(0, min_open=True),
    metavar="FACTOR",
    help="Of all rates.",
)
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0))
@click.option(
    "--lanes",
    default="1",
    show_default=True,
    metavar="N|auto",
    help="Inferences that compute at once; auto measures whether 2 are faster than 1.",
)
@threads_option
@engines_option
@click.option(
    "--budget-steps",
    metavar="SHARE:SIZE,…",
    help="Change the budget at these shares of the run, like 0.33:50%,0.66:100%.",
)
@click.option("--json", "json_target", metavar="FILE", help="The report; - for stdout.")
@click.option("--plot", metavar="FILE", help="Shares of the budget and waiting requests over time.")
def run(
    scenario: str,
    budget: str,
    memory_limit: bool,
    compared: tuple[str, ...],
    requests: int,
    rounds: int,
    speed: float,
    seed: int,
    lanes: str,
    threads: int | None,
    engines: Path,
    budget_steps: str | None,
    json_target: str | None,
    plot: str | None,
) -> None:
    """Run the DNNs of a scenario under one budget, and compare with unlimited memory."""
    from swapnet.budget import Budget
    from swapnet.cli.bench import one_operator_engine
    from swapnet.executor.bench.plot import check_drawable
    from swapnet.executor.device import Device, available_processors
    from swapnet.executor.scenario.experiment import experiment
    from swapnet.executor.scenario.plot import save_plot
    from swapnet.executor.scenario.scenario import at_speed, load_scenario
    from swapnet.executor.scenario.setup import Setup
    from swapnet.executor.scenario.steps import parse_steps

    path = scenario_path(scenario)
    chosen = at_speed(load_scenario(path), speed)
    parsed = Budget.parse(budget)
    others = _others(compared)
    parse_steps(budget_steps or "", 1 << 30)  # before engines are built
    for target in (json_target, plot):
        if target and target != "-":
            check_writable(Path(target))
    if plot:
        check_drawable(Path(plot))
    device = Device(threads or available_processors())
    parts = _parts(chosen, engines, device)
    with tempfile.TemporaryDirectory(prefix="swapnet-") as name, progress(path.stem) as told:
        setup = Setup(
            name=path.stem,
            scenario=chosen,
            parts=parts,
            budget=parsed,
            runtime_engine=one_operator_engine(Path(name)),
            device=device,
            others=others,
            budget_steps=budget_steps or "",
            requests=requests,
            rounds=rounds,
            seed=seed,
            lanes=_lanes(lanes, parts, device),
            memory_limit=memory_limit,
            command=shlex.join(["swapnet", *sys.argv[1:]]),
        )
        report = experiment(setup, told)
    if json_target:
        write_json(report, json_target)
    if json_target != "-":
        _show(report)
    if plot:
        save_plot(report, Path(plot))


@command.command("forecast")
@click.argument("scenario", metavar="FILE|NAME")
@click.option("--budget", required=True, metavar="SIZE", help="As for run.")
@click.option(
    "--storage",
    metavar="SIZE",
    help="Bytes per second of another device's storage, like 400MB; by default as measured.",
)
@click.option("--requests", default=20_000, show_default=True, type=click.IntRange(1))
@click.option("--speed", default=1.0, show_default=True, type=click.FloatRange(0, min_open=True))
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0))
@threads_option
@engines_option
@click.option("--json", "json_target", metavar="FILE", help="- for stdout.")
def forecast_command(
    scenario: str,
    budget: str,
    storage: str | None,
    requests: int,
    speed: float,
    seed: int,
    threads: int | None,
    engines: Path,
    json_target: str | None,
) -> None:
    """Expect what a scenario takes, on a virtual clock with measured delays."""
    from swapnet.budget import Budget
    from swapnet.executor.device import Device, available_processors
    from swapnet.executor.runtime.memory import together
    from swapnet.executor.scenario.forecast import candidate, forecast
    from swapnet.executor.scenario.scenario import at_speed, load_scenario
    from swapnet.profile import load_profile
    from swapnet.units import parse_size

    chosen = at_speed(load_scenario(scenario_path(scenario)), speed)
    parsed = Budget.parse(budget)
    bytes_per_s = float(parse_size(storage)) if storage else None
    device = Device(threads or available_processors())
    parts = _parts(chosen, engines, device)
    demand = together([part.manifest for part in parts])
    candidates = [
        candidate(
            part.entry,
            part.folder,
            part.manifest,
            load_profile(part.folder, part.manifest, device.fingerprint),
            storage_bytes_per_s=bytes_per_s,
        )
        for part in parts
    ]
    available = parsed.resolve(demand) - demand.other_bytes
    found = forecast(candidates, available, requests=requests, seed=seed)
    if json_target:
        write_json(found, json_target)
    if json_target != "-":
        names = [entry.name for entry in chosen.models]
        print_table(
            f"{chosen.title}; mean ms and share of {format_size(available)} for weights",
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


def scenarios() -> dict[str, Path]:
    """Files of the scenarios that come with SwapNet, by name."""
    import swapnet.models

    folder = Path(swapnet.models.__path__[0]) / "scenarios"
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def scenario_path(name: str) -> Path:
    """The file of a scenario: one that is there, or one that comes with SwapNet.

    Raises
    ------
    InputError
        There is neither.
    """
    path = Path(name)
    if path.is_file():
        return path
    known = scenarios()
    if name not in known:
        raise InputError(
            f"there is no scenario {name}",
            why="it is no file, and none of those that come with SwapNet",
            hint=f"give a TOML file, or one of {', '.join(known)}",
        )
    return known[name]


def _others(texts: tuple[str, ...]) -> tuple[str, ...]:
    from swapnet.executor.scenario.setup import OTHERS, UNLIMITED

    given = [part.strip() for text in texts for part in text.split(",") if part.strip()]
    unknown = [name for name in given if name not in (*OTHERS, UNLIMITED)]
    if unknown:
        raise InputError(
            f"{unknown[0]!r} is not a way to share a budget",
            why=f"ways are {', '.join((*OTHERS, UNLIMITED))}",
            hint="write them like --compare equal,whole-model",
        )
    return tuple(name for name in OTHERS if name in given)


def _lanes(text: str, parts: tuple[Part, ...], device: Device) -> int:
    """How many inferences compute at once.

    Raises
    ------
    InputError
        It is no number above 0.
    """
    if text.isdecimal() and int(text) > 0:
        return int(text)
    if text != "auto":
        raise InputError(
            f"{text!r} lanes are not possible",
            why="it must be a whole number above 0, or auto",
            hint="leave it out for 1: one inference computes at a time, step by step",
        )
    from swapnet.executor.runtime.concurrency import Trial, best_lanes, measure_lanes

    trials = [
        Trial(
            part.folder,
            {name: array[0] for name, array in part.samples.items()},
            part.entry.shapes,
        )
        for part in parts
    ]
    ratios = measure_lanes(trials, device=device)
    count = best_lanes(ratios)
    click.echo(f"Two lanes take {ratios[2]:.2f} of one lane's time: {count}", err=True)
    return count


def _parts(scenario: Scenario, engines: Path, device: Device) -> tuple[Part, ...]:
    """All engines, built and measured where they must be, with their inputs."""
    from swapnet import models
    from swapnet.manifest import load_manifest

    for entry in scenario.models:
        if entry.model is not None:
            models.find(entry.model)
        else:
            load_manifest(Path(entry.source))
    return tuple(_part(entry, engines, device) for entry in scenario.models)


def _part(entry: Entry, engines: Path, device: Device) -> Part:
    from swapnet import models
    from swapnet.arrays import load_npz
    from swapnet.cli.engine import delays, measured_engine
    from swapnet.cli.models import current_engine
    from swapnet.executor.scenario.setup import Part, samples_for
    from swapnet.files import make_folder

    given: dict[str, Any] = {}
    if entry.model is not None:
        files = models.get(entry.model)
        make_folder(engines)
        folder = current_engine(engines, files, load_npz(files.example), "onnxruntime")
        given = load_npz(files.data)
    else:
        folder = Path(entry.source)
    manifest = measured_engine(folder, entry.shapes)
    delays(folder, device, "auto", entry.shapes, calibrate=True, name=entry.source)
    return Part(entry, folder, manifest, samples_for(manifest, given, _SAMPLES))


def _show(report: Report) -> None:
    _show_models(report)
    click.echo(
        f"Budget: {format_size(report.budget_bytes)} ({report.budget}) of "
        f"{format_size(report.demand_bytes)}, weights {format_size(report.weights_bytes)}; peak "
        f"{format_size(report.peak_bytes)} above {format_size(report.runtime_bytes)} of the "
        f"runtime and {format_size(report.traffic_bytes)} of the traffic "
        f"({report.memory_accounting})"
    )
    click.echo(
        f"Weighted mean latency: {_ms(report.weighted_latency_ms)} ms; storage "
        f"{report.storage_bytes_per_s / 1e6:.0f} MB/s"
    )
    for name, ratio in report.compare.items():
        way = report.ways[name]
        if way.note:
            click.echo(f"{_title(name)}: {way.note}")
        else:
            click.echo(
                f"{_title(name)}: {_ms(way.weighted_latency_ms)} ms, {_ratio(ratio)} times ours; "
                f"{way.deadline_misses} deadline misses, "
                f"{format_size(way.read_bytes / max(way.requests, 1))} read per inference"
            )
    if report.phases:
        _show_phases(report.phases)
    for name, error in report.errors.items():
        click.echo(f"{name} failed: {error}")


def _show_models(report: Report) -> None:
    print_table(
        report.title,
        [
            "DNN",
            "asked",
            "median ms",
            "p99 ms",
            "ratio",
            "bound",
            "missed",
            "MiB read",
            "share",
            "failed",
            "wrong",
        ],
        [_row(line) for line in report.models],
    )


def _row(line: Line) -> tuple[str, ...]:
    latency = line.latency_ms
    return (
        f"{line.name} ({Path(line.model).name})",
        str(line.requests),
        _ms(latency.median if latency else None),
        _ms(latency.p99 if latency else None),
        _ratio(line.ratio_to_unlimited),
        _ratio(line.bound_ratio),
        str(line.deadline_misses) if line.deadline_ms is not None else _NONE,
        f"{line.read_bytes_per_inference / (1 << 20):.1f}",
        format_size(line.budget_bytes),
        str(line.failures),
        str(line.wrong_outputs),
    )


def _show_phases(phases: tuple[Phase, ...]) -> None:
    print_table(
        "Over time",
        ["from s", "to s", "budget", "change ms", "requests", "failures", "ms", "unlimited ms"],
        [
            (
                f"{phase.start_s:.1f}",
                f"{phase.end_s:.1f}",
                format_size(phase.budget_bytes),
                _ms(phase.rebalance_ms),
                str(phase.requests),
                str(phase.failures),
                _ms(phase.weighted_latency_ms),
                _ms(phase.unlimited_weighted_latency_ms),
            )
            for phase in phases
        ],
    )


def _title(name: str) -> str:
    return name.replace("_", "-").capitalize()


def _ms(value: float | None) -> str:
    return _NONE if value is None else f"{value:.1f}"


def _ratio(value: float | None) -> str:
    return _NONE if value is None else f"{value:.2f}"
