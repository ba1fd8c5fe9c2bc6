"""``swapnet models``."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from textwrap import indent

import click

from swapnet import models
from swapnet.arrays import load_npz
from swapnet.budget import Budget
from swapnet.cli.console import (
    print_table,
    print_text,
    progress,
    say,
    write_json,
)
from swapnet.cli.engine import open_engine
from swapnet.cli.options import engines_option
from swapnet.cli.zoo import current_engine, zoo_files
from swapnet.executor.backends import best_backend, can_run
from swapnet.executor.bench.bench import Setup, bench
from swapnet.executor.bench.report import Report
from swapnet.executor.bench.rounds import Schedule
from swapnet.executor.engine import Engine
from swapnet.executor.planning.planner import smallest_budget
from swapnet.files import working_folder
from swapnet.manifest import GPU_BACKENDS
from swapnet.models import find, names
from swapnet.units import format_size, rounded_up

__all__ = ["command"]

_COLUMNS = {"model": 18, "weights": 8, "budget": 8, "peak": 8}
_COLUMNS |= {"ms": 6, "whole": 6, "ratio": 5, "bound": 5, "differs": 7}
"""Names and widths, for 80 columns."""

weights_option = click.option(
    "--weights",
    type=click.Path(path_type=Path),
    metavar="FILE.safetensors",
    help="Real weights by name, instead of seeded ones.",
)


@click.group("models")
def command() -> None:
    """The model zoo: ONNX files, real inputs, readable answers."""


@command.command("list")
def list_models() -> None:
    """Show all models."""
    print_table(
        "",
        ["name", "what", "parameters", "licence"],
        [(m.name, m.title, f"{m.parameters:,}", m.licence) for m in map(find, names())],
    )


@command.command("get")
@click.argument("name")
@weights_option
@click.option("--json", "as_json", is_flag=True, help="Paths, licence and checksum as JSON.")
def get_model(name: str, weights: Path | None, as_json: bool) -> None:
    """Make or fetch a model and its example inputs."""
    files = zoo_files(name, weights)
    record = {
        "name": files.name,
        "onnx": str(files.onnx),
        "example": str(files.example),
        "data": str(files.data),
        "licence": files.licence,
        "sha256": files.sha256,
    }
    if as_json:
        write_json(record, "-")
    else:
        for key, value in record.items():
            click.echo(f"{key + ':':9}{value}")


@command.command("run")
@click.argument("names", nargs=-1)
@click.option("--budget", default="weights:25%", show_default=True, metavar="SIZE")
@engines_option
@click.option(
    "--backend",
    default="auto",
    show_default=True,
    help="As for build; where it can't run, engines are built and shown.",
)
@click.option("--duration", default=1.0, show_default=True, type=click.FloatRange(0), metavar="S")
def run_models(
    names: tuple[str, ...], budget: str, engines: Path, backend: str, duration: float
) -> None:
    """Build, swap and compare models on real inputs. [default: all]

    The smallest model comes first; each row is printed when it is measured.
    """
    from swapnet.builder.one_operator import one_operator_engine

    parsed = Budget.parse(budget)
    if backend == "auto":
        backend = best_backend()
    known = models.networks() if backend in GPU_BACKENDS else models.names()
    chosen = sorted((models.find(name) for name in names or known), key=lambda m: m.parameters)
    if backend in GPU_BACKENDS and not can_run(backend):
        show_built([model.name for model in chosen], engines, backend)
        return
    _print_row(*_COLUMNS)
    _print_row(*("-" * width for width in _COLUMNS.values()))
    with working_folder("swapnet-") as work:
        setup = partial(
            Setup,
            budget=parsed,
            one_operator=one_operator_engine(work),
            schedule=Schedule(rounds=3, iterations=3, warm_up_ms=0, duration_s=duration),
        )
        for number, model in enumerate(chosen, 1):
            where = f"[{number}/{len(chosen)}] {model.name}"
            say(f"{where}: making the model and its engine …")
            files = zoo_files(model.name)
            inputs = load_npz(files.example)
            opened = open_engine(current_engine(engines, files, inputs, backend), {})
            say(f"{where}: comparing swapped and unswapped …")
            with progress(model.name, lines=False) as told:
                findings = bench(setup(engine=opened, inputs=inputs, unswapped=files.onnx), told)
            report = findings.report
            _print_row(model.name, *_cells(report))
            print_text(indent(model.read(inputs, findings.outputs), "  "))
    print_text()
    print_text(
        f"At {parsed}, in turn with ONNX Runtime and the whole model in memory. ratio: ms over "
        "whole; bound: ms over the lower bound; differs: over the largest output. Peaks are by "
        f"{report.memory_accounting} accounting, above the {format_size(report.fixed_bytes)} that "
        "any process of ONNX Runtime takes."
    )


def _print_row(*cells: str) -> None:
    """Print a row as soon as it is known; longer cells widen their column in it."""
    first, *others = zip(cells, _COLUMNS.values(), strict=True)
    numbers = (cell.rjust(width) for cell, width in others)
    click.echo(" ".join([first[0].ljust(first[1]), *numbers]))


def _cells(report: Report) -> tuple[str, ...]:
    """A row of the table, without the name."""
    assert report.unswapped_ms is not None
    return (
        format_size(report.weights_bytes),
        format_size(report.budget_bytes),
        format_size(report.peak_bytes),
        f"{report.latency_ms.median:.1f}",
        f"{report.unswapped_ms.median:.1f}",
        f"{report.ratio_to_unswapped:.2f}",
        f"{report.ratio_to_bound:.2f}",
        f"{report.max_rel_error:.1e}",
    )


def show_built(names: Sequence[str], engines: Path, backend: str) -> None:
    """Build models for a backend that can't run here, and say what was built."""
    rows = []
    for name in names:
        files = zoo_files(name)
        started = time.perf_counter()
        folder = current_engine(engines, files, load_npz(files.example), backend)
        seconds = time.perf_counter() - started
        manifest = Engine.open(folder).manifest
        graphs = [block for block in manifest.blocks if block.is_graph]
        embedded = sum(block.weight_style == "embedded" for block in graphs)
        plans = sum(block.plan_nbytes or (folder / block.file).stat().st_size for block in graphs)
        rows.append(
            (
                name,
                format_size(manifest.weights_nbytes),
                str(len(manifest.blocks)),
                str(len(graphs) - embedded),
                str(embedded),
                format_size(plans),
                rounded_up(smallest_budget(manifest)[0]),
                f"{seconds:.1f} s",
            )
        )
    print_table(
        f"Built for {backend}",
        [
            "model",
            "weights",
            "blocks",
            "external",
            "embedded",
            "engine files",
            "smallest budget",
            "time",
        ],
        rows,
    )
    print_text(f"Running them needs a CUDA GPU and {backend}.")
