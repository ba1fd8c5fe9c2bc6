"""``swapnet quantize``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from swapnet.cli.console import progress, say
from swapnet.cli.options import PATH, shapes_option_named
from swapnet.cli.precision import precision_options, ranges_of
from swapnet.errors import InputError
from swapnet.files import check_writable
from swapnet.manifest import Precision
from swapnet.ranges import RangeCache, save_ranges
from swapnet.units import format_size

__all__ = ["command"]


@click.command("quantize")
@click.argument("model", metavar="MODEL.onnx", type=PATH)
@click.option(
    "-o",
    "--output",
    metavar="FILE.onnx",
    type=PATH,
    help="File to write. [default: MODEL.PRECISION.onnx in this folder]",
)
@click.option(
    "--precision",
    type=click.Choice(["int8", "fp16", "int4"]),
    default="int8",
    show_default=True,
    help="int8 writes symmetric Q/DQ pairs, as TensorRT takes them; fp16 keeps the types of inputs "
    "and outputs; int4 writes MatMulNBits, for ONNX Runtime.",
)
@click.option(
    "--per-channel/--per-tensor",
    default=True,
    help="One scale for each output channel of an int8 weight, or for all of it. [default: "
    "per-channel]",
)
@precision_options
@click.option(
    "--cache",
    metavar="FILE.json",
    type=PATH,
    help="File to write the ranges to. [default: OUTPUT with .ranges.json]",
)
@click.option(
    "--budget",
    default="100%",
    show_default=True,
    metavar="SIZE",
    help="Memory of the model while its ranges are measured.",
)
@click.option("--memory-limit", is_flag=True, help="Enforce that budget in the kernel; needs root.")
@shapes_option_named("--shapes", "Input shapes, as trtexec writes them.")
def command(
    model: Path,
    output: Path | None,
    precision: Precision,
    per_channel: bool,
    weight_only: bool,
    block_size: int | None,
    exclude: tuple[str, ...],
    cache: Path | None,
    **options: Any,
) -> None:
    """Write MODEL.onnx in lower precision, and the ranges of its values.

    The model runs on --data, swapped inside --budget, to measure the ranges. You can edit them, and
    use them again with --calibration.
    """
    from swapnet.builder.importing.source import check_apart, open_source
    from swapnet.builder.precision.convert import PrecisionOptions, library_of
    from swapnet.calibration.quantize import quantize

    lowered = PrecisionOptions(precision, weight_only, exclude=exclude, block_size=block_size)
    lowered.check(
        library_of(precision),
        calibrated=bool(options["calibration"] or (precision == "int4" and options["data"])),
        data=bool(options["data"]),
    )
    if options["data"] and options["calibration"]:
        raise InputError(
            "both --data and --calibration are given",
            why="ranges come from one of them",
            hint="leave one out",
        )
    target = output or Path(f"{model.stem}.{precision}.onnx")
    place = cache or target.with_suffix(".ranges.json")
    check_apart(open_source(model), target, place)
    for file in (target, place):
        if file.absolute().parent.exists():
            check_writable(file.absolute())
    with progress(target.name) as report:
        ranges = ranges_of(model, precision=precision, progress=report, **options)
        if ranges is not None and options["calibration"] is None:
            save_ranges(place, ranges)
            say(f"{place}: {_summary(ranges)}")
        report("quantize", 0, 1)
        quantize(
            model,
            target,
            precision=precision,
            ranges=ranges,
            weight_only=weight_only,
            per_channel=per_channel,
            block_size=block_size,
            exclude=exclude,
        )
    say(f"{target}: {format_size(target.stat().st_size)}")


def _summary(ranges: RangeCache) -> str:
    return f"{len(ranges.ranges)} ranges by {ranges.method} over {ranges.samples} samples"
