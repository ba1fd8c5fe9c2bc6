"""The engine of a command: built, planned and measured first where it must be."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from swapnet.budget import Budget
from swapnet.calibration import ensure_measured, ensure_shapes
from swapnet.cli.console import progress, say
from swapnet.data.samples import Data
from swapnet.errors import InputError, StorageError
from swapnet.executor.backends import can_run
from swapnet.executor.engine import Engine
from swapnet.executor.generation.generator import ASKED_ROWS
from swapnet.executor.inputs import index_limits
from swapnet.executor.pace import Pace
from swapnet.executor.planning.auto import auto_words
from swapnet.executor.shapes import ensure_context
from swapnet.executor.swapping.storage import LoadMode
from swapnet.files import cache_folder, make_folder, working_folder
from swapnet.machine import usable_memory_bytes
from swapnet.manifest import Manifest, given_at
from swapnet.progress import Progress
from swapnet.sampling import assumed_values
from swapnet.shapes import as_planned
from swapnet.tensors import ELEMENT_BYTES
from swapnet.units import format_size

__all__ = [
    "about_weights",
    "build_apart",
    "build_place",
    "build_progress",
    "engine_or_model",
    "is_model",
    "open_engine",
    "planned_for",
    "seeded_values",
    "tell_of_auto",
    "tell_of_reading",
    "with_delays",
]

Shapes = Mapping[str, tuple[int, ...]]


def planned_for(manifest: Manifest, shapes: Shapes, dims: Mapping[str, int]) -> str:
    """Sizes that a model was built for, and which were assumed; empty where all are fixed."""
    given = given_at(manifest, shapes, dims)
    return as_planned(manifest.inputs, manifest.symbols, given)


def seeded_values(manifest: Manifest) -> str:
    """What is assumed of inputs that are not plain floats; empty where all are."""
    words = assumed_values(
        [(t.name, t.dtype, manifest.planned_shapes[t.name]) for t in manifest.inputs],
        index_limits(manifest),
        {t.name: t.shape for t in manifest.inputs},
    )
    return ", ".join(f"{name} {values}" for name, values in words.items())


def open_engine(
    folder: Path,
    shapes: Shapes,
    dims: Mapping[str, int] | None = None,
    threads: int | None = None,
    gpu_memory: str = "auto",
    *,
    gpu_index: int = 0,
    own: bool | None = None,
    storage_bytes_per_s: float | None = None,
    data: Data | None = None,
    context: int | None = None,
    conversations: int = 1,
    state: str = "",
    rows: int = ASKED_ROWS,
) -> Engine:
    """An engine at input shapes, on the device that it was compiled for.

    Activations are measured first where they were not.

    Parameters
    ----------
    folder, shapes, dims, threads, gpu_memory, gpu_index, data
        As on the command line.
    own
        True where this process executes and is ours alone: its sessions then share one thread pool.
        None where children of ours execute: memory is counted as they take it.
    storage_bytes_per_s
        Bandwidth that storage is slowed down to; None leaves it as it is.
    context, conversations, state, rows
        Most tokens of a cache that the executor keeps, their number, and names; None for no cache.
        Most tokens of an inference whose logits are wanted.
    """
    engine = Engine.open(folder).on_threads(
        threads, own=bool(own), gpu_memory=gpu_memory, gpu_index=gpu_index
    )
    if (gpu_index or gpu_memory != "auto") and not engine.manifest.runs_on_gpu:
        backend = engine.manifest.compiled.backend
        say(f"{folder.name} is an engine of {backend}: number and memory of a GPU change nothing")
    if storage_bytes_per_s is not None:
        engine = engine.on(replace(engine.device, pace=Pace(storage_bytes_per_s)))
    engine = engine.in_child() if own is None else engine
    with progress(folder.name, lines=False) as report:
        report("open", 0, 1)
        if context is not None:
            return ensure_context(
                *(engine, context),
                state=state,
                rows=rows,
                conversations=conversations,
                say=say,
            )
        return ensure_shapes(engine, shapes, dims=dims, data=data, say=say)


_IN_ALL_BUT_NAME = {"planes": "bfloat16", "float16": "float16"}


def about_weights(manifest: Manifest) -> Iterator[str]:
    """Lines on weights that are stored in fewer bytes, and on those that always stay in memory."""
    for codec, (nbytes, stored) in manifest.coded.items():
        yield (
            f"Weights are {_IN_ALL_BUT_NAME[codec]} in all but name: {format_size(nbytes)} are "
            f"stored as {format_size(stored)}."
        )
    for kind, nbytes in manifest.inline.items():
        yield (
            f"Constants of type {kind} take {format_size(nbytes)} and can't be swapped: "
            "ONNX Runtime takes this type only inside the model."
            if kind not in ELEMENT_BYTES
            else f"Constants of type {kind} take {format_size(nbytes)} and can't be swapped: "
            "operators need their values when the model is loaded."
        )


def tell_of_reading(budget: Budget, engine: Engine, load_mode: str) -> None:
    """A line where a budget is more than everything, or where weights are read by mapping them."""
    whole_bytes = engine.demand.total_bytes
    if budget.of != "bytes" and budget.amount > 1:
        say(f"{budget} is more than everything: {format_size(whole_bytes)} hold the whole model")
    if load_mode == LoadMode.MMAP.value and (
        budget.of == "auto" or budget.resolve(engine.demand) < whole_bytes
    ):
        say(
            "--load-mode mmap reads through the page cache, which a budget does not count, and "
            "ends with SIGBUS if the file becomes shorter: auto does neither"
        )


def tell_of_auto(budget: Budget, budget_bytes: int, engine: Engine) -> None:
    """A line that says what the budget ``auto`` is, and why."""
    if budget.of == "auto":
        words = auto_words(budget_bytes, engine.demand.total_bytes)
        say(f"The budget is {format_size(budget_bytes)}, {budget_bytes} bytes ({words})")


def with_delays(engine: Engine, load_mode: str, *, measure: bool, name: str) -> Engine:
    """The engine with its delays, measured first where none are stored and ``measure`` says so.

    ``name`` is the engine's name in messages.
    """
    if measure and not can_run(backend := engine.manifest.compiled.backend):
        say(f"{name}: {backend} can't run here (swapnet doctor says why), so delays are assumed")
        measure = False
    if not measure:
        return engine

    def tell(line: str) -> None:
        say(line.replace(str(engine.folder), name))

    with progress(name, lines=False) as report:
        return ensure_measured(engine, load_mode=load_mode, progress=report, say=tell)


def is_model(path: Path) -> bool:
    """Whether a path is meant to be an ONNX file, and not an engine directory."""
    return path.is_file() or path.suffix == ".onnx"


@contextmanager
def engine_or_model(
    path: Path,
    shapes: Shapes,
    dims: Mapping[str, int],
    data: Data | None = None,
    **options: Any,
) -> Iterator[Path]:
    """An engine directory: ``path`` itself, or a temporary one that is built from an ONNX file.

    ``options`` are further ones of `swapnet.builder.build`, and refused for an engine.
    """
    if not is_model(path):
        if given := [name for name, value in options.items() if value]:
            raise InputError(
                f"--{given[0].replace('_', '-')} is an option of a build",
                why=f"{path} is not an .onnx file, so nothing is built",
                hint="leave it out, or give the .onnx file",
            )
        yield path
        return
    with ExitStack() as opened:
        folder = build_place(opened) / path.stem
        with build_progress(path.name, forks=True) as report:
            build_apart(
                path,
                folder,
                report,
                backend="onnxruntime",
                shapes=dict(shapes),
                dims=dims,
                data=data,
                **options,
            )
        yield folder


@contextmanager
def build_progress(title: str, *, forks: bool) -> Iterator[Progress]:
    """Progress of a build, whose processes are forked before where this one is ours alone.

    ``forks`` is False where this process may have made a session, or opened a GPU.
    """
    from swapnet.builder.child import MODULE
    from swapnet.calibration.delays.measure import MODULE as MEASURING
    from swapnet.process.child import forked

    context = click.get_current_context(silent=True)
    is_own = context is not None and bool(context.obj)
    with ExitStack() as opened:
        if forks and is_own:
            import onnxruntime  # noqa: F401 - loaded once for all processes

            opened.enter_context(forked(MODULE, MEASURING))
        yield opened.enter_context(progress(title))


def build_apart(model: Path, folder: Path, report: Progress, **options: Any) -> Manifest:
    """Build as `swapnet.builder.build` in a process of its own, and say first how much memory that
    needs.
    """
    from swapnet.builder.build import options_of
    from swapnet.builder.child import build_in_child

    def announce(needed_bytes: int) -> None:
        line = f"{model.name}: needs at most about {format_size(needed_bytes)} of memory"
        if (usable_bytes := usable_memory_bytes()) < needed_bytes:
            line += f", {format_size(usable_bytes)} is available: the kernel may end it"
        say(line)

    chosen = options_of(**options)
    return build_in_child(chosen, model, folder, progress=report, announce=announce)


def build_place(opened: ExitStack) -> Path:
    """A folder for a build that ends with the command: in the cache folder, or where that refuses
    in the system's temporary one.
    """
    try:
        make_folder(cache_folder())
        return opened.enter_context(working_folder("plan-", cache_folder()))
    except (OSError, StorageError):
        return opened.enter_context(working_folder("swapnet-plan-"))
