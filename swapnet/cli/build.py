"""``swapnet build``."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

from swapnet import calibration
from swapnet.cli.console import print_text, progress, say
from swapnet.cli.engine import (
    about_weights,
    build_apart,
    build_progress,
    planned_for,
    seeded_values,
)
from swapnet.cli.options import PATH, custom_ops_option, shapes_option, shapes_option_named
from swapnet.cli.precision import RANGE_OPTIONS, RealInputs, precision_options, ranges_of
from swapnet.errors import SwapnetError
from swapnet.executor.backends import best_backend, can_run
from swapnet.executor.planning.planner import smallest_budget
from swapnet.manifest import Manifest
from swapnet.units import format_size, parse_size, told_apart

__all__ = ["build_engine", "command"]


@click.command("build")
@click.argument("model", metavar="MODEL.onnx|FOLDER|FILE.gguf", type=PATH)
@click.option(
    "-o",
    "--output",
    metavar="DIR",
    type=PATH,
    help="Engine directory. [default: engines/MODEL]",
)
@click.option(
    "--backend",
    default="auto",
    show_default=True,
    help="auto, onnxruntime, onnxruntime-cuda, tensorrt or tensorrt-rtx.",
)
@click.option(
    "--max-block",
    metavar="SIZE",
    help="Largest block: the unit of swapping. [default: by the weights, 256KiB to 8MiB, "
    "4MiB to 64MiB for TensorRT]",
)
@click.option(
    "--smallest-budget",
    metavar="SIZE",
    help="Choose the largest block by this budget: a quarter of it.",
)
@click.option(
    "--portable",
    is_flag=True,
    help="Run on any processor: no hardware layout, int8 weights in 7 bits (onnxruntime).",
)
@click.option(
    "--precision",
    type=click.Choice(["fp32", "fp16", "int8", "int4"]),
    default="fp32",
    show_default=True,
    help="Precision of weights, and of values where the backend computes in it; int8 needs --data "
    "or --calibration. int4 is of weights, for onnxruntime.",
)
@precision_options
@shapes_option
@custom_ops_option
@click.option(
    "measure",
    "--measure/--no-measure",
    "--calibrate/--no-calibrate",
    default=True,
    help="Measure block times after the build, if the backend runs here. [default: measure]",
)
@click.option(
    "--weights",
    metavar="STYLE",
    help="TensorRT: weights embedded in the engines, external (inputs of them), or auto. "
    "[default: auto]",
)
@click.option(
    "--target",
    "targets",
    metavar="sm86,…",
    help="tensorrt-rtx: GPUs to build for. [default: all that it supports]",
)
@click.option(
    "--hardware-compatibility",
    metavar="LEVEL",
    help="tensorrt: none, ampere+ or same-compute-capability. [default: none]",
)
@click.option(
    "--version-compatible", is_flag=True, help="tensorrt: engines run with later versions too."
)
@click.option(
    "--builder-optimization-level",
    type=int,
    metavar="0-5",
    help="tensorrt: effort to find fast kernels.",
)
@click.option(
    "--workspace", metavar="SIZE", help="TensorRT: largest scratch memory of a block's kernels."
)
@shapes_option_named("--min-shapes", "TensorRT: smallest input shapes. [default: 1 where symbolic]")
@click.option(
    "--process-per-block",
    is_flag=True,
    help="TensorRT: compile each block in its own process. The rest of a build always has one.",
)
def command(
    model: Path, output: Path | None, measure: bool, targets: str | None, **options: Any
) -> None:
    """Cut MODEL.onnx into blocks and compile each to its engine.

    A FOLDER is one that onnxruntime-genai or optimum wrote, FILE.gguf a Llama-like model of
    llama.cpp: the engine keeps its tokenizer, for swapnet generate.
    """
    from swapnet.builder.build import options_of
    from swapnet.builder.precision.convert import PrecisionOptions

    given = {name: options.pop(name) for name in RANGE_OPTIONS}
    folder = output or Path("engines") / (model.absolute().name if model.is_dir() else model.stem)
    names = tuple(filter(None, (targets or "").split(",")))
    chosen = best_backend() if options["backend"] == "auto" else options["backend"]
    precision = PrecisionOptions(
        options["precision"],
        options["weight_only"],
        exclude=options["exclude"],
        block_size=options["block_size"],
    )
    precision.check(chosen, calibrated=bool(given["calibration"]), data=bool(given["data"]))
    of_precision = ("precision", "weight_only", "block_size", "exclude")
    others = {name: value for name, value in options.items() if name not in of_precision}
    options_of(targets=names, **others).checked()
    data = given["data"].of(model, options["shapes"])
    if not precision.uses_ranges(chosen):
        given["data"] = RealInputs()
    with progress(folder.name) as report:
        ranges = ranges_of(
            model,
            precision=options["precision"],
            shapes=options["shapes"],
            progress=report,
            **given,
        )
    manifest = build_engine(
        model,
        folder,
        measure=measure,
        forks=chosen == "onnxruntime",
        targets=names,
        calibration=ranges,
        data=data,
        **options,
    )
    backend = manifest.compiled.backend
    if not can_run(backend):
        say(f"{folder}: {backend} needs a CUDA GPU to run it")
    shapes = manifest.planned_shapes if data else options["shapes"]
    if line := planned_for(manifest, shapes, options["dims"]):
        say(f"{folder}: {line}")
    if not data and (seeds := seeded_values(manifest)):
        say(f"{folder}: measured with seeded inputs, {seeds}")
    if options["smallest_budget"]:
        _compare(folder, manifest, options["smallest_budget"])


def build_engine(
    model: Path, folder: Path, *, measure: bool, forks: bool = False, **options: Any
) -> Manifest:
    """Build, measure if asked and the backend runs here, and print a summary.

    ``options`` are those of `swapnet.builder.build`, ``forks`` is as for `build_progress`.
    """
    started = time.perf_counter()
    with build_progress(folder.name, forks=forks) as report:
        manifest = build_apart(model, folder, report, **options)
        if measure and can_run(manifest.compiled.backend):
            report("measure", 0, 1)
            try:
                calibration.measure(folder, progress=report)
            except SwapnetError as error:
                print_text(f"{folder} was built but not measured: {error}", err=True)
    seconds = time.perf_counter() - started
    say(
        f"{folder}: {len(manifest.blocks)} blocks, {format_size(manifest.weights_nbytes)} of "
        f"weights, built in {seconds:.1f} s"
    )
    for line in about_weights(manifest):
        say(f"{folder}: {line}")
    return manifest


def _compare(folder: Path, manifest: Manifest, asked: str) -> None:
    """Warn if the smallest budget that works is larger than the one asked for."""
    nbytes, reason = smallest_budget(manifest)
    if nbytes > parse_size(asked):
        print_text(
            f"{folder}: its smallest budget is {told_apart(parse_size(asked), nbytes)[1]}, more "
            f"than {asked}; {reason}",
            err=True,
        )
