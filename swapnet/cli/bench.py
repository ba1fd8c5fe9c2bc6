"""``swapnet bench``."""

from __future__ import annotations

import shlex
import sys
from contextlib import ExitStack
from pathlib import Path
from statistics import mean, median
from typing import TYPE_CHECKING, Any

import click

from swapnet.cli.console import write_json
from swapnet.cli.engine import open_engine, say, tell_of_reading, with_delays
from swapnet.cli.options import (
    PATH,
    budget_option,
    engine_argument,
    gpu_memory_option,
    load_mode_option,
    measure_option,
    named_files,
    read_inputs,
    shapes_option,
    storage_option,
    storage_timeout_option,
    threads_option,
)
from swapnet.errors import InputError
from swapnet.files import check_writable, working_folder

if TYPE_CHECKING:
    from swapnet.executor.bench.bench import Findings
    from swapnet.executor.engine import Engine

__all__ = ["command"]


@click.command("bench")
@engine_argument
@budget_option
@click.option("--compare", is_flag=True, help="Compare with the unswapped model, in turns.")
@click.option(
    "--tolerance",
    type=click.FloatRange(0),
    metavar="X",
    help="End with status 1 where outputs differ by more from the unswapped model's, relative to "
    "the largest output; adds --compare. [default: a warning above 0.001]",
)
@click.option("--mapped", is_flag=True, help="Compare with memory-mapped ONNX Runtime.")
@click.option(
    "--against",
    metavar="DIR",
    type=PATH,
    help="Compare with another engine of the model, in the same bytes.",
)
@click.option(
    "--model",
    type=PATH,
    metavar="MODEL.onnx",
    help="Model to compare with. [default: the one that the engine was built from]",
)
@click.option("--memory-limit", is_flag=True, help="Enforce the budget in the kernel; needs root.")
@click.option(
    "--iterations",
    type=click.IntRange(1),
    default=10,
    show_default=True,
    help="Least number of inferences.",
)
@click.option(
    "--warm-up",
    "--warmUp",
    type=click.FloatRange(0),
    default=200,
    show_default=True,
    metavar="MS",
    help="Warm-up before the measurement.",
)
@click.option(
    "--duration",
    type=click.FloatRange(0),
    default=3,
    show_default=True,
    metavar="S",
    help="Least duration of the measurement.",
)
@click.option(
    "--percentile",
    default="90,95,99",
    show_default=True,
    metavar="P,…",
    help="Percentiles of the latency to report.",
)
@click.option(
    "--load-inputs",
    "--loadInputs",
    metavar="NAME:FILE.npy,…",
    help="Input arrays, or one .npz of all. [default: a sample of its --data, else seeded]",
)
@click.option("--json", "json_target", metavar="FILE", help="Write the report; - for stdout.")
@click.option("--export-times", "--exportTimes", metavar="FILE", help="Write times by inference.")
@click.option("--export-profile", "--exportProfile", metavar="FILE", help="Write times by step.")
@click.option("--export-trace", metavar="FILE", help="Write one inference, for Perfetto.")
@click.option("--plot", metavar="FILE", help="Draw latency over budget, with this measurement.")
@shapes_option
@measure_option
@threads_option
@storage_option
@load_mode_option
@storage_timeout_option
@gpu_memory_option
@click.option("--no-resident", is_flag=True, help="Keep no weights in memory; slower.")
@click.option("--no-cyclic", is_flag=True, help="Never read for the next inference; slower.")
def command(
    engine: Path,
    budget: str,
    compare: bool,
    tolerance: float | None,
    mapped: bool,
    against: Path | None,
    model: Path | None,
    memory_limit: bool,
    iterations: int,
    warm_up: float,
    duration: float,
    percentile: str,
    load_inputs: str | None,
    json_target: str | None,
    export_times: str | None,
    export_profile: str | None,
    export_trace: str | None,
    plot: str | None,
    shapes: dict[str, tuple[int, ...]],
    dims: dict[str, int],
    measure: bool,
    threads: int | None,
    storage_bytes_per_s: float | None,
    load_mode: str,
    storage_timeout_ms: float,
    gpu_memory: str,
    no_resident: bool,
    no_cyclic: bool,
) -> None:
    """Measure latency and memory of the engine DIR at a budget."""
    from swapnet.budget import Budget
    from swapnet.builder.importing.source import original_model, random_reasons
    from swapnet.builder.one_operator import one_operator_engine
    from swapnet.builder.rewriting.optimise import operators_of, save_optimised
    from swapnet.executor.bench.bench import Other, Setup, bench
    from swapnet.executor.bench.difference import check_comparable
    from swapnet.executor.bench.judgement import DIFFERENCE_LIMIT
    from swapnet.executor.bench.plot import check_drawable
    from swapnet.executor.bench.report import as_text, difference_warning
    from swapnet.executor.bench.rounds import Schedule
    from swapnet.executor.inputs import check_inputs
    from swapnet.executor.planning.admission import admitted_bytes
    from swapnet.executor.planning.plan import PlanOptions
    from swapnet.executor.planning.planner import make_plan
    from swapnet.executor.samples import sample_of
    from swapnet.executor.swapping.storage import LoadMode
    from swapnet.profile import assumed_profile

    compare |= tolerance is not None
    if mapped and storage_bytes_per_s is not None:
        raise InputError(
            "--mapped and --storage do not go together",
            why="the kernel reads for memory-mapped ONNX Runtime, which --storage can't slow down",
            hint="leave one of them out",
        )
    opened = open_engine(
        engine, shapes, dims, threads, gpu_memory, storage_bytes_per_s=storage_bytes_per_s
    )
    manifest = opened.manifest
    if memory_limit and manifest.runs_on_gpu:
        raise InputError(
            f"--memory-limit is not for {manifest.compiled.backend}",
            why="the kernel limits memory of the host, where CUDA needs an unknown part",
            hint="leave it out: SwapNet's allocators measure and limit memory of the GPU",
        )
    other = None
    if against is not None:
        other = open_engine(against, shapes, dims, threads, gpu_memory)
        check_comparable((str(engine), str(against)), (manifest, other.manifest))
    parsed = Budget.parse(budget)
    check_writable(json_target, export_times, export_profile, export_trace, plot)
    if plot:
        check_drawable(Path(plot))
    wanted = _percentiles(percentile)
    options = PlanOptions(resident=not no_resident, cyclic=not no_cyclic)
    names = [tensor.name for tensor in manifest.inputs]
    arrays = read_inputs(named_files(load_inputs or "", names))
    inputs = sample_of(opened) if load_inputs is None else check_inputs(manifest, arrays)
    with ExitStack() as stack:
        folder = stack.enter_context(working_folder("swapnet-"))
        source = original_model(manifest, model) if compare or mapped else None
        make_plan(manifest, assumed_profile(manifest), admitted_bytes(parsed, manifest), options)
        tell_of_reading(parsed, opened, load_mode)
        opened = with_delays(opened, load_mode, measure=measure, name=str(engine))
        if other is not None:
            with_delays(other, load_mode, measure=measure, name=str(against))
        others: dict[str, Other] = {}
        if mapped and source is not None:
            whole = save_optimised(source, folder, operators=operators_of(manifest.compiled))
            others["mapped"] = Other(whole, "mapped")
        if against is not None:
            others["against"] = Other(against)
        findings = bench(
            Setup(
                engine=opened,
                budget=parsed,
                inputs=inputs,
                one_operator=one_operator_engine(folder),
                unswapped=source if compare else None,
                others=others,
                load_mode=LoadMode(load_mode),
                tolerance=DIFFERENCE_LIMIT if tolerance is None else tolerance,
                explain=lambda: random_reasons(source) if source else (),
                storage_timeout_ms=storage_timeout_ms,
                options=options,
                memory_limit=memory_limit,
                schedule=Schedule(iterations=iterations, warm_up_ms=warm_up, duration_s=duration),
                percentiles=wanted,
                trace=export_trace is not None,
                command=shlex.join(["swapnet", *sys.argv[1:]]),
            )
        )
    if json_target:
        write_json(findings.report, json_target)
    if json_target != "-":
        click.echo(as_text(findings.report))
    else:
        for line in difference_warning(findings.report):
            say(line)
    if export_times:
        write_json(_times(findings), export_times)
    if export_profile:
        write_json(_profile(findings), export_profile)
    if export_trace:
        write_json({"traceEvents": findings.trace_events}, export_trace)
    if plot:
        _plot(opened, findings, Path(plot))
    judged = findings.report.difference
    if tolerance is not None and judged is not None and not judged.is_within:
        raise click.exceptions.Exit(1)


def _plot(engine: Engine, findings: Findings, path: Path) -> None:
    from swapnet.executor.bench.plot import panel_of, save_plot
    from swapnet.executor.bench.prediction import scaled
    from swapnet.executor.planning.curve import curve

    manifest, report, profile = findings.manifest, findings.report, engine.delays
    delays = scaled(profile, report.idle_ms, report.storage_bytes_per_s)
    points = curve(manifest, profile, delays=delays, execution_ms=report.execution_ms)
    save_plot([panel_of(report.model, points, [report])], path)


def _percentiles(text: str) -> tuple[float, ...]:
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = ()
    if not values or not all(0 <= value <= 100 for value in values):
        raise InputError(
            f"{text!r} is not a list of percentiles",
            why="percentiles are numbers from 0 to 100 joined by commas",
            hint="write them like 90,95,99",
        )
    return values


def _times(findings: Findings) -> list[dict[str, float]]:
    return [
        {
            "startMs": each.start_ms,
            "endMs": each.start_ms + each.latency_ms,
            "latencyMs": each.latency_ms,
            "stallMs": each.stall_ms,
        }
        for each in findings.timings
    ]


def _profile(findings: Findings) -> list[dict[str, Any]]:
    timings = findings.timings
    steps = list(zip(*(each.steps_ms for each in timings), strict=True))
    total = sum(map(mean, steps)) or 1.0
    rows: list[dict[str, Any]] = [{"count": len(timings)}]
    for step, times in zip(findings.plan.steps, steps, strict=True):
        rows.append(
            {
                "name": f"blocks {step.first}-{step.last}",
                "timeMs": sum(times),
                "averageMs": mean(times),
                "medianMs": median(times),
                "percentage": 100 * mean(times) / total,
            }
        )
    return rows
