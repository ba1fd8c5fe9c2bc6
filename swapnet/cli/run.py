"""``swapnet run``."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from swapnet.arrays import save_npz
from swapnet.budget import Budget
from swapnet.cli.console import print_table, print_text, progress, say
from swapnet.cli.engine import open_engine, tell_of_auto, tell_of_reading, with_delays
from swapnet.cli.options import (
    PATH,
    budget_option,
    custom_ops_option,
    engine_argument,
    gpu_memory_option,
    load_mode_option,
    named_file,
    shapes_option,
    storage_timeout_option,
    threads_option,
)
from swapnet.data.files import read_arrays
from swapnet.executor import SwapExecutor
from swapnet.executor.samples import sample_of
from swapnet.files import check_writable
from swapnet.shapes import sizes_option
from swapnet.units import format_size

__all__ = ["command"]


@click.command("run")
@engine_argument
@budget_option
@click.option(
    "--input",
    "inputs",
    multiple=True,
    metavar="NAME=FILE",
    help="File of an input, one option each: .npy, ONNX's .pb, .json or raw bytes; "
    "or one .npz, .json or test_data_set_0 of all. [default: a sample of its --data, else seeded]",
)
@click.option("--output", type=PATH, metavar="FILE.npz", help="Write the outputs.")
@shapes_option
@click.option("--verify", is_flag=True, help="Compare all checksums first.")
@threads_option
@load_mode_option
@storage_timeout_option
@gpu_memory_option
@custom_ops_option
@click.pass_context
def command(
    context: click.Context,
    engine: Path,
    budget: str,
    inputs: tuple[str, ...],
    output: Path | None,
    shapes: dict[str, tuple[int, ...]],
    dims: dict[str, int],
    verify: bool,
    threads: int | None,
    load_mode: str,
    storage_timeout_ms: float,
    gpu_memory: str,
) -> None:
    """Run one inference of the engine DIR inside a budget."""
    parsed = Budget.parse(budget)
    check_writable(output)
    opened = open_engine(engine, shapes, dims, threads, gpu_memory, own=bool(context.obj))
    manifest = opened.manifest
    names = [tensor.name for tensor in manifest.inputs]
    files = [named_file(text, names, "=") for text in inputs]
    arrays = read_arrays(files, manifest.inputs, manifest.planned_shapes)
    tell_of_reading(parsed, opened, load_mode)
    if parsed.of == "auto":
        opened = with_delays(opened, load_mode, measure=True, name=str(engine))
    with progress(engine.name, lines=False) as report:
        report("open", 0, 1)
        with SwapExecutor(
            opened,
            parsed,
            load_mode=load_mode,
            verify=verify,
            storage_timeout_ms=storage_timeout_ms,
        ) as executor:
            report("run", 0, 1)
            outputs = executor(arrays if inputs else sample_of(opened))
            stats, plan = executor.stats, executor.plan
            is_assumed = executor.engine.measured.is_assumed
    tell_of_auto(parsed, plan.budget_bytes, executor.engine)
    if is_assumed:
        words = [shlex.quote(str(engine)), *([f"--threads {threads}"] if threads else [])]
        words += [sizes_option(manifest.inputs, manifest.planned_shapes)] if shapes or dims else []
        say(f"delays are assumed, not measured: swapnet measure {' '.join(words)}")
    if output is not None:
        save_npz(output, outputs)
    print_table(
        f"{manifest.source.name} in {format_size(plan.budget_bytes)}",
        ["output", "type", "shape", "smallest", "largest"],
        [
            (
                name,
                str(array.dtype),
                "x".join(map(str, array.shape)) or "scalar",
                f"{array.min():.6g}" if array.size else "",
                f"{array.max():.6g}" if array.size else "",
            )
            for name, array in outputs.items()
        ],
    )
    assert stats.last is not None
    print_text(
        f"{stats.last.latency_ms:.1f} ms, {stats.last.stall_ms:.1f} ms of it waiting for storage; "
        f"{format_size(plan.streamed_bytes)} streamed ({executor.load_mode}), "
        f"{format_size(plan.resident_bytes)} resident"
        + (f"; on {executor.gpu}" if executor.gpu else "")
    )
