"""``swapnet accuracy``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import msgspec

from swapnet.budget import Budget
from swapnet.calibration.accuracy.report import AccuracyReport, summary
from swapnet.calibration.accuracy.tasks import TASKS
from swapnet.cli.console import print_table, print_text, progress, write_json
from swapnet.cli.options import PATH
from swapnet.cli.precision import RealInputs, data_options
from swapnet.data.samples import Samples
from swapnet.errors import InputError
from swapnet.files import check_writable, working_folder

__all__ = ["command", "decibels"]

_SHOWN = 10


@click.command("accuracy")
@click.argument("reference", metavar="REFERENCE.onnx", type=PATH)
@click.argument("candidate", metavar="CANDIDATE", type=PATH)
@data_options(required=True)
@click.option(
    "--task",
    type=click.Choice(TASKS),
    default="auto",
    show_default=True,
    help="Meaning of the outputs; auto takes rows of length 1 for embeddings, others for classes.",
)
@click.option(
    "--tolerance",
    type=click.FloatRange(0),
    default=0.05,
    show_default=True,
    help="Allowed difference, relative to the largest magnitude of an output in a sample.",
)
@click.option(
    "--budget", default="100%", show_default=True, metavar="SIZE", help="For an engine directory."
)
@click.option(
    "--threads", type=click.IntRange(1), help="Threads of ONNX Runtime. [default: all processors]"
)
@click.option(
    "--per-layer", is_flag=True, help="Show where the error enters; CANDIDATE is an ONNX file."
)
@click.option(
    "--layer-samples",
    default=8,
    show_default=True,
    type=click.IntRange(1),
    metavar="N",
    help="Number of samples to compare layers on.",
)
@click.option("--json", "json_target", metavar="FILE", help="Write everything; - for stdout.")
def command(
    reference: Path,
    candidate: Path,
    data: RealInputs,
    task: Any,
    tolerance: float,
    budget: str,
    threads: int | None,
    per_layer: bool,
    layer_samples: int,
    json_target: str | None,
) -> None:
    """Compare CANDIDATE, an ONNX file or an engine directory, with the float model REFERENCE."""
    from swapnet.calibration.accuracy.run import compare_outputs

    if per_layer and candidate.is_dir():
        raise InputError(
            f"{candidate} can't be compared layer by layer",
            why="it is an engine directory, and its operators are fused",
            hint="give an .onnx file in lower precision: swapnet quantize writes one",
        )
    check_writable(json_target)
    Budget.parse(budget)
    samples = data.of(reference)
    assert samples is not None
    with progress(candidate.name) as report:
        found = compare_outputs(
            reference,
            candidate,
            samples,
            data=data.data or "",
            task=task,
            tolerance=tolerance,
            budget=budget,
            threads=threads,
            progress=report,
        )
    if per_layer:
        found = _with_layers(found, reference, candidate, samples, layer_samples, threads)
    if json_target:
        write_json(found, json_target)
    if json_target != "-":
        _show(found)


def decibels(ratio: float | None) -> str:
    """A signal-to-noise ratio as text."""
    return "equal" if ratio is None else f"{ratio:.1f} dB"


def _with_layers(
    found: AccuracyReport,
    reference: Path,
    candidate: Path,
    samples: Samples,
    count: int,
    threads: int | None,
) -> AccuracyReport:
    from swapnet.builder.importing.source import open_source
    from swapnet.builder.precision.normalise import normalise
    from swapnet.calibration.accuracy.layers import compare_layers, suggest

    with (
        working_folder("swapnet-accuracy-") as work,
        progress(candidate.name) as report,
    ):
        layers = compare_layers(
            normalise(open_source(reference), work).path,
            candidate,
            samples,
            limit=count,
            threads=threads,
            progress=report,
        )
    return msgspec.structs.replace(
        found,
        layers=list(layers),
        layer_samples=min(count, found.samples),
        suggested=list(suggest(layers)),
    )


def _show(found: AccuracyReport) -> None:
    print_table(
        f"{Path(found.candidate).name} against {Path(found.reference).name}, {found.samples} "
        "samples; relative to the output's largest magnitude",
        [
            "output",
            "signal to noise",
            "largest error",
            "relative",
            "within tolerance",
            "not finite",
        ],
        [
            (
                output.name,
                decibels(output.snr_db),
                f"{output.max_abs_error:.3g}",
                f"{output.max_rel_error:.2%}",
                f"{output.within_tolerance} of {found.samples}",
                str(output.not_finite),
            )
            for output in found.outputs
        ],
    )
    for output in found.outputs:
        if text := summary(output):
            print_text(f"{output.name}: {text}")
    if found.layers:
        _show_layers(found)


def _show_layers(found: AccuracyReport) -> None:
    lowered = [layer for layer in found.layers if layer.excludable]
    total = sum(layer.own_noise for layer in lowered) or 1.0
    worst = sorted(lowered, key=lambda layer: -layer.own_noise)[:_SHOWN]
    print_table(
        f"Where the error enters: the worst {len(worst)} of {len(lowered)} layers in lower "
        f"precision, {len(found.layers)} compared on {found.layer_samples} samples",
        ["operator", "kind", "value", "up to here", "share of the noise"],
        [
            (
                layer.operator,
                layer.kind,
                layer.value,
                decibels(layer.snr_db),
                f"{layer.own_noise / total:.1%}",
            )
            for layer in worst
        ],
    )
    if found.suggested:
        excluded = " ".join(f"--exclude {name}" for name in found.suggested)
        print_text(f"Each of these adds 10 % of the noise or more: swapnet quantize … {excluded}")
    else:
        print_text(
            "No single operator adds 10 % of the noise, so excluding one won't help. If the error "
            "is too large, calibrate with another --method, or lower the weights only: "
            "--weight-only"
        )
