"""``swapnet models``."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

import swapnet
from swapnet.arrays import Array, load_npz
from swapnet.cli import bench_gpu, zoo_accuracy
from swapnet.cli.console import print_table, write_json
from swapnet.cli.options import engines_option
from swapnet.units import format_size

if TYPE_CHECKING:
    from swapnet.models import ZooFiles

__all__ = ["command", "current_engine", "engine_folder"]

weights_option = click.option(
    "--weights",
    type=click.Path(path_type=Path),
    metavar="FILE.safetensors",
    help="Real weights by name, instead of seeded ones.",
)


@click.group("models")
def command() -> None:
    """The model zoo: ONNX files, real inputs, readable answers."""


command.add_command(bench_gpu.command)
command.add_command(zoo_accuracy.command)


@command.command("list")
def list_models() -> None:
    """Show all models."""
    from swapnet.models import find, names

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
    from swapnet.models import get

    files = get(name, weights=weights)
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
    """Build, swap and compare models on real inputs. [default: all]"""
    from swapnet import models
    from swapnet.budget import Budget
    from swapnet.cli.bench import one_operator_engine
    from swapnet.cli.engine import engine_device
    from swapnet.executor.backends import best_backend, can_run
    from swapnet.executor.bench.bench import Setup, bench
    from swapnet.executor.bench.rounds import Schedule
    from swapnet.manifest import GPU_BACKENDS

    parsed = Budget.parse(budget)
    chosen = [models.find(name) for name in names or models.names()]
    if backend == "auto":
        backend = best_backend()
    if backend in GPU_BACKENDS and not can_run(backend):
        show_built([model.name for model in chosen], engines, backend)
        return
    rows, readings = [], []
    with tempfile.TemporaryDirectory(prefix="swapnet-") as name:
        runtime = one_operator_engine(Path(name))
        for model in chosen:
            files = models.get(model.name)
            inputs = load_npz(files.example)
            folder = current_engine(engines, files, inputs, backend)
            findings = bench(
                Setup(
                    folder=folder,
                    budget=parsed,
                    inputs=inputs,
                    runtime_engine=runtime,
                    device=engine_device(folder, None, "auto"),
                    unswapped=files.onnx,
                    schedule=Schedule(rounds=3, iterations=3, warm_up_ms=0, duration_s=duration),
                )
            )
            report = findings.report
            assert report.unswapped_ms is not None
            rows.append(
                (
                    model.name,
                    format_size(report.weights_bytes),
                    format_size(report.budget_bytes),
                    format_size(report.peak_bytes),
                    f"{report.latency_ms.median:.1f} ms",
                    f"{report.unswapped_ms.median:.1f} ms",
                    f"{report.ratio_to_unswapped:.2f}",
                    f"{report.ratio_to_bound:.2f}",
                    f"{report.max_rel_error:.1e}",
                )
            )
            readings.append((model.name, model.read(inputs, findings.outputs)))
    print_table(
        f"At {parsed}, in turn with ONNX Runtime unswapped; peaks by {report.memory_accounting} "
        "accounting, above the runtime's own "
        f"{format_size(report.runtime_bytes)}; differences over the largest output",
        [
            "model",
            "weights",
            "budget",
            "peak",
            "latency",
            "unswapped",
            "ratio",
            "to bound",
            "difference",
        ],
        rows,
    )
    for title, text in readings:
        click.echo(f"\n{title}\n  " + text.replace("\n", "\n  "))


@command.command("bench")
@click.argument("names", nargs=-1)
@click.option(
    "--budget",
    "budgets",
    multiple=True,
    default=("weights:66%", "weights:43%", "weights:25%", "weights:17%", "smallest"),
    show_default=True,
    metavar="SIZE",
    help="May be given several times; smallest is the smallest that works.",
)
@click.option(
    "--results",
    default="results",
    show_default=True,
    type=click.Path(path_type=Path),
    help="Where cases, tables and plots go; cases that are there are not measured again.",
)
@engines_option
@click.option("--peers/--no-peers", default=True, help="Other ways to run what does not fit.")
@click.option(
    "--peers-python",
    default=".venv-peers/bin/python",
    show_default=True,
    type=click.Path(path_type=Path),
    help="An interpreter that has PyTorch and accelerate.",
)
@click.option("--ablations/--no-ablations", default=True, help="Switch off one thing at a time.")
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(1))
@click.option(
    "--memory-limit/--no-memory-limit", default=True, help="Under the kernel's limit; needs root."
)
def bench_models(
    names: tuple[str, ...],
    budgets: tuple[str, ...],
    results: Path,
    engines: Path,
    peers: bool,
    peers_python: Path,
    ablations: bool,
    rounds: int,
    memory_limit: bool,
) -> None:
    """Measure models at several budgets: JSON, tables and plots. [default: all]"""
    from swapnet import models
    from swapnet.cli.suite import Suite, run_suite

    chosen = tuple(models.find(name).name for name in names or models.names())
    suite = Suite(
        names=chosen,
        budgets=budgets,
        results=results,
        engines=engines,
        peers=peers,
        peers_python=peers_python,
        ablated=(chosen if names else None) if ablations else (),
        rounds=rounds,
        memory_limit=memory_limit,
    )
    if run_suite(suite):
        raise SystemExit(1)


def show_built(names: Sequence[str], engines: Path, backend: str) -> None:
    """Build models for a backend that can't run here, and say what was built."""
    from swapnet import models
    from swapnet.executor.planning.planner import smallest_budget
    from swapnet.manifest import load_manifest

    rows = []
    for name in names:
        files = models.get(name)
        started = time.perf_counter()
        folder = current_engine(engines, files, load_npz(files.example), backend)
        seconds = time.perf_counter() - started
        manifest = load_manifest(folder)
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
                format_size(smallest_budget(manifest)[0]),
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
    click.echo(f"Running them needs a CUDA GPU and {backend}.")


def engine_folder(engines: Path, name: str, backend: str) -> Path:
    """Where the engine of a model lies: ``NAME`` for ONNX Runtime, else ``NAME-BACKEND``."""
    return engines / (name if backend == "onnxruntime" else f"{name}-{backend}")


def current_engine(engines: Path, files: ZooFiles, inputs: dict[str, Array], backend: str) -> Path:
    """The engine of a model for inputs of these shapes; built if missing, outdated or damaged."""
    from swapnet.cli.build import build_engine
    from swapnet.errors import SwapnetError
    from swapnet.executor import SwapExecutor
    from swapnet.executor.backends import can_run
    from swapnet.executor.planning.planner import smallest_budget
    from swapnet.manifest import load_manifest
    from swapnet.tensorrt import version

    folder = engine_folder(engines, files.name, backend)
    shapes = {name: array.shape for name, array in inputs.items()}
    try:
        manifest = load_manifest(folder)
        current = (
            manifest.source.sha256 == files.sha256
            and manifest.compiled.builder == swapnet.__version__
            and manifest.planned_shapes == shapes
        )
        if manifest.is_tensorrt:
            current &= manifest.compiled.version == version(manifest.compiled.backend)
        if current and can_run(manifest.compiled.backend):
            smallest = "100%" if manifest.runs_on_gpu else smallest_budget(manifest)[0]
            SwapExecutor(folder, smallest).close()
    except SwapnetError:
        current = False
    if not current:
        build_engine(files.onnx, folder, calibrate=True, backend=backend, shapes=shapes)
    return folder
