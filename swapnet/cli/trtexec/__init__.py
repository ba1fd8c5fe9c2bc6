"""``swapnet trtexec``: a whole command line of trtexec, answered in its words."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import click

from swapnet.budget import Budget, Demand
from swapnet.cli.bench import values_of
from swapnet.cli.build import command as build
from swapnet.cli.console import progress, say
from swapnet.cli.engine import build_place, open_engine
from swapnet.cli.exports import Exports
from swapnet.cli.trtexec.line import Line, parse_line
from swapnet.cli.trtexec.options import OPTIONS
from swapnet.cli.trtexec.translate import budget_of, build_arguments, echo_lines, for_tensorrt
from swapnet.errors import InputError, SwapnetError
from swapnet.executor.backends import best_backend
from swapnet.executor.bench import trtexec_text
from swapnet.executor.bench.bench import Findings
from swapnet.executor.bench.explanations import EXPLAINED
from swapnet.executor.bench.exports import layer_info_json, outputs_json, planned_dims, profile_json
from swapnet.executor.bench.opening import time_opening
from swapnet.executor.bench.report import labelled_lines, warnings
from swapnet.executor.bench.statistics import percentiles_of
from swapnet.executor.engine import Engine
from swapnet.executor.samples import kept_samples
from swapnet.files import folder_bytes
from swapnet.manifest import Manifest
from swapnet.tensorrt import TENSORRT
from swapnet.tensors import as_dims, parse_shapes
from swapnet.version import VERSION

__all__ = ["command"]

_SAID = ("Warm-up", "Timing trace", "Throughput", "Latency", "Parts")
"""Lines of our own report that trtexec's lines say already."""


class _Log:
    """A log with trtexec's prefix; called with a level and lines.

    Warnings and errors, ``W`` and ``E``, go to standard error. ``V`` is written where the log is
    ``verbose``. A ``quiet`` one leaves standard output to an export.
    """

    def __init__(self, command: str, *, verbose: bool, quiet: bool) -> None:
        self.command = command
        self._verbose = verbose
        self._quiet = quiet

    def __call__(self, level: Literal["V", "I", "W", "E"], *lines: str) -> None:
        is_error = level in ("W", "E")
        if not is_error and (self._quiet or (level == "V" and not self._verbose)):
            return
        now = datetime.now().strftime("[%m/%d/%Y-%H:%M:%S]")
        for line in lines:
            click.echo(f"{now} [{level}] {line}", err=is_error)

    def result(self, word: Literal["RUNNING", "PASSED", "FAILED"]) -> None:
        """The line that a harness looks for."""
        if not self._quiet:
            click.echo(f"&&&& {word} SwapNet.trtexec [SwapNet v{VERSION}] # {self.command}")


class _Command(click.Command):
    """A command that reads its line by itself; its options are there for the help."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.params["arguments"] = args
        return []

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        del ctx
        for treatment in ("mapped", "noticed", "refused"):
            with formatter.section(f"{treatment.capitalize()} options"):
                formatter.write_dl(
                    [
                        (option.name + "=…" * option.takes_value, option.text)
                        for option in OPTIONS.values()
                        if option.treatment == treatment
                    ]
                )


@click.command(
    "trtexec",
    cls=_Command,
    add_help_option=False,
    params=[
        click.Option([name], is_flag=not o.takes_value, multiple=o.takes_value)
        for name, o in OPTIONS.items()
    ],
)
@click.pass_context
def command(context: click.Context, arguments: list[str]) -> None:
    """Take a whole line of trtexec 11.1, and answer in its words.

    \b
    swapnet trtexec --onnx=MODEL.onnx --saveEngine=DIR
    swapnet trtexec --loadEngine=DIR --budget=64M --exportTimes=times.json
    """
    log = _Log(
        shlex.join(["swapnet", "trtexec", *arguments]),
        verbose="--verbose" in arguments,
        quiet=any("-" in (word, word.partition("=")[2]) for word in arguments),
    )
    if not arguments or {"--help", "-h"}.intersection(arguments):
        click.echo(context.get_help())
        return
    log.result("RUNNING")
    try:
        is_passed = _run(parse_line(arguments), log)
    except (SwapnetError, click.ClickException) as error:
        text = error.format_message() if isinstance(error, click.ClickException) else str(error)
        log("E", *text.splitlines())
        log.result("FAILED")
        raise click.exceptions.Exit(2) from error
    log.result("PASSED" if is_passed else "FAILED")
    if not is_passed:
        raise click.exceptions.Exit(1)


def _run(line: Line, log: _Log) -> bool:
    """Whether all that the line asks for was done, and its checks hold."""
    exports = Exports(
        times=line.text("--exportTimes"),
        profile=line.text("--exportProfile"),
        layer_info=line.text("--exportLayerInfo"),
        output=line.text("--exportOutput"),
    )
    log("I", *echo_lines(line))
    log("W", *line.notices)
    budget_of(line, Demand(0, 0))  # a wrong one is told before the build
    log("I", *trtexec_text.device_lines(), "", f"SwapNet version: {VERSION}")
    with ExitStack() as stack:
        folder = _engine_folder(line, log, stack)
        if line.has("--skipInference", "--buildOnly"):
            log("I", "Skipped inference phase since --skipInference is added.")
            return True
        return _infer(line, log, exports, folder)


def _engine_folder(line: Line, log: _Log, stack: ExitStack) -> Path:
    """The engine directory that the line names, built first where it names a model."""
    loaded, model = line.text("--loadEngine"), line.text("--onnx")
    if loaded is not None:
        return Path(loaded)
    if model is None:
        raise InputError(
            "no model and no engine",
            why="neither --onnx nor --loadEngine is given",
            hint="give one: --onnx=MODEL.onnx or --loadEngine=DIR",
        )
    path = Path(model).expanduser()
    saved = line.text("--saveEngine")
    folder = Path(saved) if saved else build_place(stack) / path.stem
    backend = line.text("--backend") or best_backend()
    is_tensorrt = backend in TENSORRT
    if not is_tensorrt:
        log("W", *(f"{name} changes nothing: it is for TensorRT" for name in for_tensorrt(line)))
    started = time.perf_counter()
    arguments = build_arguments(line, path, folder, tensorrt=is_tensorrt)
    build.main(arguments, prog_name="swapnet build", standalone_mode=False)
    log(
        "I",
        f"Engine built in {time.perf_counter() - started:g} sec.",
        f"Created engine with size: {folder_bytes(folder) / 2**20:g} MiB",
    )
    return folder


def _infer(line: Line, log: _Log, exports: Exports, folder: Path) -> bool:
    from swapnet.calibration.bench import bench

    engine = open_engine(
        folder,
        parse_shapes(text) if (text := line.text("--shapes")) else {},
        threads=_threads(line),
        gpu_memory="managed" if line.has("--useManagedMemory") else "auto",
        gpu_index=int(line.number("--device")),
    )
    manifest, compiled = engine.manifest, engine.manifest.compiled
    log("I", f"Loaded engine with size: {folder_bytes(folder) / 2**20:g} MiB")
    if line.has("--getPlanVersionOnly"):
        log("I", f"Engine was built by SwapNet {compiled.builder or 'before 0.2'}")
        log("I", f"Engine was built with {compiled.backend} {compiled.version}")
        return True
    budget = Budget.parse(budget_of(line, engine.demand))
    if line.has("--timeDeserialize"):
        times = time_opening(engine, budget)
        log("I", *times.as_text().splitlines())
        return times.is_steady
    if line.has("--dumpLayerInfo"):
        log("I", *trtexec_text.layer_lines(layer_info_json(manifest)))
    if line.has("--dumpOptimizationProfile"):
        log("I", "Optimization Profile Information:", *_planned(manifest))
    options = _bench_options(line, manifest)
    log("I", *_binding_lines(line, engine), "Starting inference")
    found: list[Findings] = []
    with progress(folder.name, lines=False) as moved:
        bench(
            *(engine, budget),
            **options,
            command=log.command,
            on_findings=found.append,
            say=say,
            progress=moved,
        )
    (findings,) = found
    exports.write(findings)
    return _report(line, log, findings, options["percentiles"])


def _threads(line: Line) -> int | None:
    threads = line.text("--threads") or ""
    if threads and not threads.isdecimal():
        raise InputError(
            f"--threads={threads} is invalid",
            why="in trtexec it is a flag; here it may be the number of compute threads",
            hint="leave it out, or write it like --threads=2",
        )
    return int(threads or 0) or None


def _planned(manifest: Manifest) -> Iterator[str]:
    for name, shape in manifest.planned_shapes.items():
        yield f"Model input {name} (profile 0): max={as_dims(shape)}"


def _binding_lines(line: Line, engine: Engine) -> Iterator[str]:
    manifest = engine.manifest

    loaded = line.text("--loadInputs")
    origin = f"values loaded from {loaded}"
    if not loaded:
        origin = "values of a sample of the engine" if kept_samples(engine) else "random values"
    for taken in manifest.inputs:
        shape = manifest.planned_shapes[taken.name]
        yield f"Using {origin} for input {taken.name}"
        yield f"Input binding for {taken.name} with dimensions {as_dims(shape)} is created."
    for given in manifest.outputs:
        dims = as_dims(planned_dims(manifest, given))
        yield f"Output binding for {given.name} with dimensions {dims} is created."


def _bench_options(line: Line, manifest: Manifest) -> dict[str, Any]:
    """Keywords of `swapnet.bench`."""
    limits = {"accuracy_threshold": "accuracyThreshold", "atol": "atol", "rtol": "rtol"}
    return {
        **values_of(manifest, line.text("--loadInputs"), line.text("--loadRefOutputs")),
        "accuracy_algorithm": line.text("--accuracyAlgorithm"),
        **{k: line.number(f"--{name}") for k, name in limits.items() if line.has(f"--{name}")},
        "iterations": int(line.number("--iterations")),
        "warm_up_ms": line.number("--warmUp"),
        "duration_s": line.number("--duration"),
        "idle_ms": line.number("--idleTime"),
        "percentiles": percentiles_of(line.text("--percentile") or "90,95,99"),
    }


def _report(line: Line, log: _Log, findings: Findings, percents: Sequence[float]) -> bool:
    """Print a measurement as trtexec does; whether references are met."""
    report, timings = findings.report, findings.timings
    judged = report.references
    log("I", f"Engine deserialized in {report.opening.open_ms / 1e3:g} sec.")
    if judged is not None:
        log("I", *trtexec_text.accuracy_lines(judged))
    log("I", *trtexec_text.trace_lines(report, timings, int(line.number("--avgRuns"))), "")
    log("I", *trtexec_text.summary_lines(report, timings, percents))
    ours = {label: value for label, value in labelled_lines(report) if label not in _SAID}
    log("I", *(f"{label}: {value}" for label, value in ours.items()))
    log("W", *trtexec_text.metric_warnings(timings), *(f"* {each}" for each in warnings(report)))
    log("I", "Explanations of the performance metrics are printed in the verbose logs.")
    explained = {**trtexec_text.EXPLANATIONS, **{label: EXPLAINED[label] for label in ours}}
    log("V", "", "=== Explanations of the performance metrics ===")
    log("V", *(f"{label}: {value}" for label, value in explained.items()))
    log("I", "")
    if line.has("--dumpOutput"):
        log("I", *trtexec_text.output_lines(outputs_json(findings.manifest, findings.outputs)))
    if line.has("--dumpProfile"):
        log(
            "I",
            *trtexec_text.profile_lines(profile_json(findings.plan, findings.manifest, timings)),
            "",
        )
    return judged is None or judged.is_within
