"""``make bench-gpu``: models on this GPU, unswapped and swapped, in docs/gpu.md."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any

import click
import onnxruntime

from swapnet import models
from swapnet.arrays import load_npz
from swapnet.cli.build import build_engine
from swapnet.cli.console import say, write_json
from swapnet.cli.options import gpu_memory_option
from swapnet.executor.backends import best_backend, check_runnable
from swapnet.executor.gpu.accelerator import choose_memory, describe
from swapnet.executor.gpu.cuda import open_cuda
from swapnet.models import ZooFiles
from swapnet.tensorrt import TENSORRT
from swapnet.tensors import Array
from tests.evidence.command import run
from tests.evidence.gpu import as_markdown, measure_cases
from tests.evidence.pages import check_page, update_page

_DEFAULT = ("resnet18", "mobilenet_v2", "resnet101", "ppocrv4_rec", "minilm", "vgg19")
_WHOLE = "1024GiB"
"""No model has a block so large: it stays in one piece."""


@click.command()
@click.argument("names", nargs=-1)
@click.option("--backend", default="auto", show_default=True, help="A backend of a GPU.")
@click.option(
    "--budget",
    "budgets",
    multiple=True,
    default=("weights:43%", "weights:25%", "weights:17%"),
    show_default=True,
    metavar="SIZE",
    help="May be given several times.",
)
@click.option(
    "--engines",
    default="engines",
    show_default=True,
    type=click.Path(path_type=Path),
    help="Where engine directories lie; all are built again.",
)
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(1))
@click.option("--json", "json_target", metavar="FILE", help="The cases; - for stdout.")
@click.option(
    "--page",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="Write the table into this page.",
)
@gpu_memory_option
def command(
    names: tuple[str, ...],
    backend: str,
    budgets: tuple[str, ...],
    engines: Path,
    rounds: int,
    json_target: str | None,
    page: Path | None,
    gpu_memory: str,
) -> None:
    """Measure models on this GPU, unswapped and at several budgets, per weight style."""
    if page:
        check_page(page, "bench-gpu")
    if backend == "auto":
        backend = best_backend()
    if backend == "onnxruntime":
        backend = "onnxruntime-cuda"
    check_runnable(backend)
    gpu = open_cuda()
    device = describe(gpu.attributes, choose_memory(gpu.attributes, gpu_memory))
    cases = []
    for name in names or _DEFAULT:
        say(f"{name} on {device} …")
        files = models.get(models.find(name).name)
        inputs = load_npz(files.example)
        whole, styles = _build(files, inputs, engines, backend)
        cases += measure_cases(
            name,
            whole,
            styles,
            budgets,
            inputs,
            _expected(files, inputs),
            gpu=gpu,
            gpu_memory=gpu_memory,
            rounds=rounds,
        )
    asked = shlex.join(["python", "-m", "tests.evidence.bench_gpu", *sys.argv[1:]])
    table = as_markdown(cases, device, asked)
    if json_target:
        write_json(cases, json_target)
    if json_target != "-":
        click.echo(table)
    if page:
        update_page(page, table, "bench-gpu")


def _build(
    files: ZooFiles, inputs: dict[str, Array], engines: Path, backend: str
) -> tuple[Path, dict[str, Path]]:
    """The whole model as one engine, and cut, in each weight style of the backend."""
    shapes = {name: array.shape for name, array in inputs.items()}

    def built(name: str, **options: Any) -> Path:
        folder = engines / f"{files.name}-{backend}-{name}"
        build_engine(files.onnx, folder, measure=True, backend=backend, shapes=shapes, **options)
        return folder

    if backend not in TENSORRT:
        cut = built("external")
        return cut, {"external": cut}
    styles = {style: built(style, weights=style) for style in ("external", "embedded")}
    return built("whole", weights="embedded", max_block=_WHOLE), styles


def _expected(files: ZooFiles, inputs: dict[str, Array]) -> dict[str, Array]:
    """What ONNX Runtime gives on the CPU."""
    session = onnxruntime.InferenceSession(files.onnx, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, inputs), strict=True))


if __name__ == "__main__":
    run(command)
