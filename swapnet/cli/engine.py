"""The engine of a command: built, planned and measured first where it must be."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from swapnet.cli.console import progress
from swapnet.errors import InputError, StorageError
from swapnet.files import cache_folder, make_folder, working_folder
from swapnet.units import format_size

if TYPE_CHECKING:
    from swapnet.executor.engine import Engine
    from swapnet.manifest import Manifest
    from swapnet.progress import Progress

__all__ = ["build_apart", "engine_or_model", "open_engine", "say", "with_delays"]

Shapes = Mapping[str, tuple[int, ...]]


def say(line: str) -> None:
    """One line on standard error."""
    click.echo(line, err=True)


def open_engine(
    folder: Path,
    shapes: Shapes,
    threads: int | None = None,
    gpu_memory: str = "auto",
    *,
    own: bool | None = None,
) -> Engine:
    """An engine at input shapes, on the device that it was compiled for.

    Activations are measured first where they were not.

    Parameters
    ----------
    folder, shapes, threads, gpu_memory
        As on the command line.
    own
        True where this process executes and is ours alone: its sessions then share one thread pool.
        None where children of ours execute: memory is counted as they take it.
    """
    from swapnet.calibration import ensure_shapes
    from swapnet.executor.engine import Engine

    engine = Engine.open(folder).on_threads(threads, own=bool(own), gpu_memory=gpu_memory)
    return ensure_shapes(engine.in_child() if own is None else engine, shapes, say=say)


def with_delays(engine: Engine, load_mode: str, *, measure: bool, name: str) -> Engine:
    """The engine with its delays, measured first where none are stored and ``measure`` says so.

    ``name`` is the engine's name in messages.
    """
    from swapnet.executor.backends import can_run

    if measure and not can_run(backend := engine.manifest.compiled.backend):
        say(f"{name}: {backend} can't run here (swapnet doctor says why), so delays are assumed")
        measure = False
    if not measure:
        return engine
    from swapnet.calibration import ensure_measured

    def tell(line: str) -> None:
        say(line.replace(str(engine.folder), name))

    return ensure_measured(engine, load_mode=load_mode, say=tell)


@contextmanager
def engine_or_model(path: Path, shapes: Shapes, **options: Any) -> Iterator[Path]:
    """An engine directory: ``path`` itself, or a temporary one that is built from a model.

    Parameters
    ----------
    path
        Engine directory, or ONNX file.
    shapes
        Input shapes.
    options
        Further options of `swapnet.builder.build`, for a model only.

    Raises
    ------
    InputError
        Options of a build are given for an engine.
    SwapnetError
        The model can't be built.
    """
    if not (path.is_file() or path.suffix == ".onnx"):
        if given := [name for name, value in options.items() if value]:
            raise InputError(
                f"--{given[0].replace('_', '-')} is an option of a build",
                why=f"{path} is not an .onnx file, so nothing is built",
                hint="leave it out, or give the .onnx file",
            )
        yield path
        return
    with ExitStack() as opened:
        folder = _working_folder(opened) / path.stem
        with progress(path.name) as report:
            build_apart(path, folder, report, backend="onnxruntime", shapes=dict(shapes), **options)
        yield folder


def build_apart(
    model: Path, folder: Path, report: Progress, **options: Any
) -> tuple[Manifest, int]:
    """Build in a process of its own, and say first how much memory that needs.

    Parameters
    ----------
    model, folder
        ONNX file and engine directory.
    report
        Takes the progress.
    options
        Options of `swapnet.builder.build`.

    Returns
    -------
    tuple
        The manifest, and the most bytes that were resident at once in this process and its
        children.

    Raises
    ------
    SwapnetError
        As `swapnet.builder.build`.
    """
    from swapnet.builder.build import options_of
    from swapnet.builder.child import build_in_child
    from swapnet.machine import family_peak_bytes, usable_memory_bytes

    def announce(needed_bytes: int) -> None:
        line = f"{folder}: needs at most about {format_size(needed_bytes)} of memory"
        if (usable_bytes := usable_memory_bytes()) < needed_bytes:
            line += f", {format_size(usable_bytes)} is available: the kernel may end it"
        say(line)

    built = build_in_child(options_of(**options), model, folder, progress=report, announce=announce)
    return built.manifest, family_peak_bytes(built.peak_bytes)


def _working_folder(opened: ExitStack) -> Path:
    """In the cache folder, or where that refuses in the system's temporary one."""
    try:
        make_folder(cache_folder())
        return opened.enter_context(working_folder("plan-", cache_folder()))
    except (OSError, StorageError):
        return opened.enter_context(working_folder("swapnet-plan-"))
