"""``swapnet build``."""

from __future__ import annotations

import resource
import time
from pathlib import Path
from typing import Any

import click

from swapnet.cli.console import progress
from swapnet.cli.options import shapes_option
from swapnet.errors import SwapnetError
from swapnet.units import format_size

__all__ = ["build_engine", "command"]


@click.command("build")
@click.argument("model", metavar="MODEL.onnx", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Engine directory. [default: engines/MODEL]",
)
@click.option("--backend", default="auto", show_default=True, help="auto or onnxruntime.")
@click.option(
    "--max-block",
    metavar="SIZE",
    help="Largest block: the granule of swapping. [default: a sixteenth of the weights, "
    "256KiB to 8MiB]",
)
@click.option("--portable", is_flag=True, help="No hardware layout: runs on any processor.")
@shapes_option
@click.option("--calibrate/--no-calibrate", default=True, help="Measure block times afterwards.")
def command(
    model: Path,
    output: Path | None,
    backend: str,
    max_block: str | None,
    portable: bool,
    shapes: dict[str, tuple[int, ...]],
    calibrate: bool,
) -> None:
    """Cut MODEL.onnx into blocks and compile each to its engine."""
    build_engine(
        model,
        output or Path("engines") / model.stem,
        calibrate=calibrate,
        backend=backend,
        max_block=max_block,
        portable=portable,
        shapes=shapes,
    )


def build_engine(model: Path, folder: Path, *, calibrate: bool, **options: Any) -> None:
    """Build, measure, and say what was built."""
    from swapnet.builder import build
    from swapnet.calibration import calibrate as measure

    started = time.perf_counter()
    with progress(folder.name) as report:
        manifest = build(model, folder, progress=report, **options)
        if calibrate:
            report("calibrate", 0, 1)
            try:
                measure(folder, progress=report)
            except SwapnetError as error:
                click.echo(f"{folder} was built but not measured: {error}", err=True)
    seconds = time.perf_counter() - started
    peak = 1024 * max(
        resource.getrusage(who).ru_maxrss
        for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    click.echo(
        f"{folder}: {len(manifest.blocks)} blocks, {format_size(manifest.weights_nbytes)} of "
        f"weights, built in {seconds:.1f} s with at most {format_size(peak)} of memory",
        err=True,
    )
