"""``make accuracy``: what lower precision costs models of the zoo, in docs/accuracy.md."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

import click

from swapnet import models
from swapnet.builder import build
from swapnet.calibration import calibrate_model
from swapnet.calibration.accuracy.report import AccuracyReport, summary
from swapnet.calibration.accuracy.run import compare_outputs
from swapnet.calibration.quantize import quantize
from swapnet.cli.accuracy import decibels
from swapnet.cli.console import progress, write_json
from swapnet.files import check_writable
from swapnet.models import ZooFiles
from swapnet.ranges import RangeCache
from tests.evidence.command import run
from tests.evidence.evaluation import Inputs, Recipe, calibration_inputs, evaluation, recipe
from tests.evidence.pages import check_page, table, update_page
from tests.evidence.text_task import TextTask

Lowered = Literal["fp16", "int8", "int4"]
Form = Literal["engine", "file"]
"""An engine of ONNX Runtime on the CPU, or the .onnx file: TensorRT takes it but for int4."""

Reports = dict[str, tuple[AccuracyReport, str]]
"""By model, precision and form; and what became of texts, in words."""

_DEFAULT = ("efficientnet_lite2", "minilm", "ppocrv4_rec")
_PRECISIONS: tuple[Lowered, ...] = ("fp16", "int8", "int4")
_IN_INT4 = ("minilm", "bert_base")
"""Models of products: int4 is of their weights."""

_FORMS: tuple[Form, ...] = ("engine", "file")


def _parse(_: click.Context, __: click.Parameter, value: str) -> tuple[str, ...]:
    chosen = tuple(part.strip() for part in value.split(","))
    if unknown := [part for part in chosen if part not in _PRECISIONS]:
        raise click.BadParameter(f"{unknown[0]!r} is none of {', '.join(_PRECISIONS)}")
    return chosen


@click.command()
@click.argument("names", nargs=-1)
@click.option(
    "--precision",
    "precisions",
    default=",".join(_PRECISIONS),
    show_default=True,
    callback=_parse,
    metavar="PRECISION,…",
)
@click.option("--threads", type=click.IntRange(1), help="Of ONNX Runtime. [default: all]")
@click.option("--json", "json_target", metavar="FILE", help="All reports; - for stdout.")
@click.option(
    "--page",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="Write the table into this page.",
)
def command(
    names: tuple[str, ...],
    precisions: tuple[Lowered, ...],
    threads: int | None,
    json_target: str | None,
    page: Path | None,
) -> None:
    """What lower precision costs models of the zoo, on inputs that did not calibrate them."""
    chosen = [models.find(name).name for name in names or _DEFAULT]
    if page is not None:
        check_page(page, "accuracy")
    if json_target and json_target != "-":
        check_writable(Path(json_target))
    reports: Reports = {}
    for name in chosen:
        files = models.get(name)
        for precision in precisions:
            if precision == "int4" and name not in _IN_INT4:
                continue
            reports.update(_reports(files, precision, threads))
    if json_target:
        write_json({key: report for key, (report, _) in reports.items()}, json_target)
    shown = as_markdown(reports)
    if "int8" in precisions and (left_out := _left_out(chosen)):
        shown += f"\n\n{left_out}"
    if json_target != "-":
        click.echo(shown)
    if page is not None:
        update_page(page, shown, "accuracy")


def make_candidate(
    files: ZooFiles,
    precision: Lowered,
    form: Form,
    ranges: RangeCache | None,
    shapes: Mapping[str, tuple[int, ...]],
    folder: Path,
) -> Path:
    """A model of the zoo in lower precision.

    Parameters
    ----------
    files
        Of the model.
    precision, form
        What is made.
    ranges
        Of its values; int8 needs them.
    shapes
        Largest inputs, of an engine.
    folder
        Where.
    """
    exclude = _excluded(files.name, precision, form)
    target = folder / f"{files.name}-{precision}{'.onnx' if form == 'file' else ''}"
    if form == "file":
        return quantize(files.onnx, target, precision=precision, ranges=ranges, exclude=exclude)
    with progress(target.name) as report:
        build(
            files.onnx,
            target,
            backend="onnxruntime",
            precision=precision,
            calibration=ranges,
            exclude=exclude,
            shapes=shapes,
            progress=report,
        )
    return target


def _excluded(name: str, precision: Lowered, form: Form) -> tuple[str, ...]:
    """Operators that the model's recipe leaves in float32."""
    if precision != "int8":
        return ()
    chosen = recipe(name)
    return chosen.exclude + (chosen.exclude_symmetric if form == "file" else ())


def _reports(files: ZooFiles, precision: Lowered, threads: int | None) -> Reports:
    """Both forms of one model in one precision, calibrated once."""
    inputs = evaluation(files.name)
    shapes = _largest_shapes(inputs)
    chosen = recipe(files.name) if precision == "int8" else Recipe()
    reports: Reports = {}
    with tempfile.TemporaryDirectory(prefix="swapnet-accuracy-") as name:
        with progress(f"{files.name}-{precision}") as report:
            ranges = (
                None
                if precision == "int4"
                else calibrate_model(
                    files.onnx,
                    calibration_inputs(files.name),
                    precision=precision,
                    method=chosen.method,
                    percentile=chosen.percentile,
                    progress=report,
                )
            )
        for form in _FORMS:
            candidate = make_candidate(files, precision, form, ranges, shapes, Path(name))
            with progress(candidate.name) as report:
                texts = TextTask(inputs.read) if inputs.read else None
                found = compare_outputs(
                    files.onnx,
                    candidate,
                    inputs,
                    data=f"evaluation inputs of {files.name}",
                    task=partial(_the_same, texts) if inputs.task == "text" else inputs.task,
                    threads=threads,
                    progress=report,
                )
                words = texts.result() if texts else ""
                reports[f"{files.name} {precision} {form}"] = found, words
    return reports


def _the_same(task: TextTask | None, *_: object) -> TextTask | None:
    """The task of each output."""
    return task


def _largest_shapes(inputs: Inputs) -> dict[str, tuple[int, ...]]:
    largest: dict[str, tuple[int, ...]] = {}
    for feed in inputs:
        for name, array in feed.items():
            sizes = zip(largest.get(name, array.shape), array.shape, strict=True)
            largest[name] = tuple(map(max, sizes))
    return largest


def as_markdown(reports: Reports) -> str:
    """The reports as a table, one row for each output; keys are ``model precision form``."""
    columns = ("model", "precision", "form", "output", "samples:", "signal to noise:")
    rows = [
        (
            *key.split(),
            output.name,
            str(report.samples),
            decibels(output.snr_db),
            f"{output.max_rel_error:.2%}",
            summary(output) or words,
        )
        for key, (report, words) in reports.items()
        for output in report.outputs
    ]
    return "\n".join(table([*columns, "largest error:", "task"], rows))


def _left_out(names: Sequence[str]) -> str:
    """What int8 leaves in float32, a line for each model; empty where it leaves nothing."""
    rows = []
    for name in names:
        chosen = recipe(name)
        if chosen.reason:
            share = f" {chosen.percentile:g}" if chosen.method == "percentile" else ""
            operators = (", ".join(chosen.exclude), ", ".join(chosen.exclude_symmetric))
            rows.append((name, f"{chosen.method}{share}", *operators, chosen.reason))
    columns = ("model", "ranges", "in float32", "in the file too", "why")
    return "\n".join(table(columns, rows)) if rows else ""


if __name__ == "__main__":
    run(command)
