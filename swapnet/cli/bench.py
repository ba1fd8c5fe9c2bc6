"""``swapnet bench``."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any

import click

from swapnet.budget import Budget
from swapnet.cli.console import is_verbose, print_text, progress, say, write_json
from swapnet.cli.engine import open_engine, tell_of_reading
from swapnet.cli.exports import EXPORTED, Exports
from swapnet.cli.options import (
    PATH,
    budget_option,
    custom_ops_option,
    engine_argument,
    gpu_index_option,
    gpu_memory_option,
    load_mode_option,
    measure_option,
    named_files,
    shapes_option,
    storage_option,
    storage_timeout_option,
    threads_option,
    trace_options,
)
from swapnet.data.files import read_arrays
from swapnet.errors import InputError
from swapnet.executor.bench.bench import Findings
from swapnet.executor.bench.difference import ALGORITHMS
from swapnet.executor.bench.explanations import explained
from swapnet.executor.bench.opening import time_opening
from swapnet.executor.bench.page import bench_page
from swapnet.executor.bench.report import as_text, difference_warning
from swapnet.executor.bench.summary import scaled
from swapnet.executor.planning.curve import curve
from swapnet.executor.planning.plan import PlanOptions
from swapnet.executor.report.page import save_page
from swapnet.executor.swapping.storage import LoadMode
from swapnet.manifest import Manifest

__all__ = ["command", "values_of"]

_ENGINE = ("shapes", "dims", "threads", "gpu_memory", "gpu_index")
_LIMITS = ("tolerance", "accuracy_algorithm", "accuracy_threshold", "atol", "rtol")
"""Options that open an engine, and those that limit differences; others are of `swapnet.bench`."""


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
@click.option(
    "--load-ref-outputs",
    metavar="NAME:FILE,…",
    help="Compare the last outputs with files, as --load-inputs takes them; status 1 above the "
    "threshold.",
)
@click.option(
    "--accuracy-algorithm",
    type=click.Choice(ALGORITHMS),
    help="Measure of the difference from reference outputs and, with --compare, from the unswapped "
    "model's: share of values outside the tolerances, mean, mean square, maximum, 1 less the "
    "cosine, or maximum over the largest output. [default: l0]",
)
@click.option(
    "--accuracy-threshold",
    type=click.FloatRange(0),
    metavar="X",
    help="End with status 1 where that difference is larger. [default: 0]",
)
@click.option(
    "--atol", type=click.FloatRange(0), metavar="X", help="Absolute tolerance of l0; 1e-5."
)
@click.option(
    "--rtol", type=click.FloatRange(0), metavar="X", help="Relative tolerance of l0; 1e-5."
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
    help="Least number of inferences; fewer than 5 are as many rounds.",
)
@click.option(
    "--warm-up",
    "--warmUp",
    "warm_up_ms",
    type=click.FloatRange(0),
    default=200,
    show_default=True,
    metavar="MS",
    help="Warm-up before the measurement, all sides in turn.",
)
@click.option(
    "--duration",
    "duration_s",
    type=float,
    default=3,
    show_default=True,
    metavar="S",
    help="Least sum of latencies and pauses; the other sides take their time beside it. Rounds are "
    "added, up to 10 in all, while they differ by more than 10%; none with 0.",
)
@click.option(
    "--idle-time",
    "--idleTime",
    "idle_ms",
    type=click.FloatRange(0),
    default=0,
    show_default=True,
    metavar="MS",
    help="Pause before each inference.",
)
@click.option(
    "--rate",
    "rate_hz",
    type=click.FloatRange(0, min_open=True),
    metavar="HZ",
    help="Begin inferences at this rate, as a camera does, and count missed deadlines.",
)
@click.option(
    "--time-deserialize",
    "--timeDeserialize",
    is_flag=True,
    help="Open the engine 21 times in one process, print the times, and end. Status 1 where the "
    "first takes over twice the mean of the others.",
)
@click.option(
    "--percentile",
    "percentiles",
    default="90,95,99",
    show_default=True,
    metavar="P,…",
    help="Percentiles of the latency to report.",
)
@click.option(
    "--load-inputs",
    "--loadInputs",
    metavar="NAME:FILE,…",
    help="Files of inputs, as for run --input. [default: a sample of its --data, else seeded]",
)
@click.option("--json", "export_json", metavar="FILE", help="Write the report; - for stdout.")
@click.option("--export-times", "--exportTimes", metavar="FILE", help="Write times by inference.")
@click.option("--export-profile", "--exportProfile", metavar="FILE", help="Write times by step.")
@click.option("--export-layer-info", metavar="FILE", help="Write a layer for each block.")
@click.option("--export-output", metavar="FILE", help="Write the last outputs.")
@trace_options
@shapes_option
@measure_option
@threads_option
@storage_option
@load_mode_option
@storage_timeout_option
@gpu_memory_option
@custom_ops_option
@gpu_index_option
@click.option("--no-resident", is_flag=True, help="Keep no weights in memory; slower.")
@click.option("--no-cyclic", is_flag=True, help="Never read for the next inference; slower.")
def command(
    engine: Path,
    budget: str,
    against: Path | None,
    time_deserialize: bool,
    load_inputs: str | None,
    load_ref_outputs: str | None,
    trace_inferences: int,
    report_target: str | None,
    storage_bytes_per_s: float | None,
    no_resident: bool,
    no_cyclic: bool,
    **options: Any,
) -> None:
    """Measure latency and memory of the engine DIR at a budget.

    Throughput is inferences over the sum of their latencies: the sides of a comparison take turns.
    With --verbose each line of the report is explained.
    """
    from swapnet.calibration.bench import bench

    device = {name: options.pop(name) for name in _ENGINE}
    exports = Exports(**{name: options.pop(f"export_{name}") for name in EXPORTED})
    load_mode = options["load_mode"]
    opened = open_engine(engine, storage_bytes_per_s=storage_bytes_per_s, **device)
    parsed = Budget.parse(budget)
    unmeasured = [kind for kind in exports if kind != "json"]
    unmeasured += ["report"] if report_target else []
    if time_deserialize and unmeasured:
        raise InputError(
            "--time-deserialize runs no inference",
            why=f"figures of inferences are asked for: {', '.join(unmeasured)}",
            hint="leave it out, or write --json only",
        )
    values = values_of(opened.manifest, load_inputs, load_ref_outputs)
    tell_of_reading(parsed, opened, load_mode)
    if time_deserialize:
        with progress(engine.name, lines=False) as moved:
            moved("open 21 times", 0, 1)
            times = time_opening(opened, parsed, load_mode=LoadMode(load_mode))
        if "json" in exports:
            write_json(times, exports["json"])
        if not exports.is_quiet:
            print_text(times.as_text())
        raise click.exceptions.Exit(0 if times.is_steady else 1)
    found: list[Findings] = []
    with progress(engine.name, lines=False) as moved:
        report = bench(
            opened,
            parsed,
            against=None if against is None else open_engine(against, **device),
            options=PlanOptions(resident=not no_resident, cyclic=not no_cyclic),
            trace=trace_inferences if "trace" in exports or report_target else 0,
            command=shlex.join(["swapnet", *sys.argv[1:]]),
            on_findings=found.append,
            say=say,
            progress=moved,
            **values,
            **options,
        )
    (findings,), text = found, as_text(report)
    exports.write(findings)
    if exports.is_quiet:
        for line in difference_warning(report):
            say(line)
    else:
        print_text(explained(text) if is_verbose() else text)
    if report_target:
        _report(findings, Path(report_target))
    judged = [report.references]
    if any(options[name] is not None for name in _LIMITS):
        judged.append(report.difference)
    if any(each is not None and not each.is_within for each in judged):
        raise click.exceptions.Exit(1)


def _report(findings: Findings, path: Path) -> None:
    manifest, report, profile = findings.manifest, findings.report, findings.profile
    delays = scaled(profile, report.idle_ms, report.storage_bytes_per_s)
    points = curve(manifest, profile, delays=delays, execution_ms=report.execution_ms)
    save_page(bench_page(findings, points), path)


def values_of(manifest: Manifest, inputs: str | None, references: str | None) -> dict[str, Any]:
    """Inputs and reference outputs of files, as keywords of `swapnet.bench`.

    Raises
    ------
    InputError
        References are given without inputs, or a file can't be read.
    """
    values: dict[str, Any] = {}
    if inputs is not None:
        files = named_files(inputs, [taken.name for taken in manifest.inputs])
        values["inputs"] = read_arrays(files, manifest.inputs, manifest.planned_shapes)
    if references is not None:
        if inputs is None:
            raise InputError(
                "reference outputs are given without inputs",
                why="outputs are those of one input",
                hint="give the inputs too: --load-inputs, or --loadInputs of swapnet trtexec",
            )
        files = named_files(references, [given.name for given in manifest.outputs])
        values["references"] = read_arrays(files, manifest.outputs, {}, "output")
    return values
