"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from swapnet.arrays import load_npy, load_npz
from swapnet.errors import InputError
from swapnet.executor.swapping.storage import LoadMode
from swapnet.tensors import parse_shapes

__all__ = [
    "budget_option",
    "engine_argument",
    "engines_option",
    "gpu_memory_option",
    "load_mode_option",
    "measure_option",
    "read_inputs",
    "shapes_option",
    "shapes_option_named",
    "threads_option",
]

F = TypeVar("F", bound=Callable[..., Any])

engine_argument = click.argument(
    "engine", metavar="DIR", type=click.Path(path_type=Path, file_okay=True)
)
budget_option = click.option(
    "--budget",
    required=True,
    metavar="SIZE",
    help="All memory of the model: 64MiB, 25% of the demand, or weights:25%.",
)
load_mode_option = click.option(
    "--load-mode",
    type=click.Choice([mode.value for mode in LoadMode]),
    default=LoadMode.AUTO.value,
    show_default=True,
    help="How weights are read.",
)
measure_option = click.option(
    "measure",
    "--measure/--no-measure",
    "--calibrate/--no-calibrate",
    default=True,
    help="Measure this device first where no delays of it are stored. [default: measure]",
)
gpu_memory_option = click.option(
    "--gpu-memory",
    type=click.Choice(["auto", "device", "managed", "mapped"]),
    default="auto",
    show_default=True,
    help="Where weights lie on a GPU: by its attributes, or as you say.",
)
engines_option = click.option(
    "--engines",
    default="engines",
    show_default=True,
    type=click.Path(path_type=Path),
    help="Where engine directories lie; missing and outdated ones are built.",
)
threads_option = click.option(
    "--threads", type=click.IntRange(1), help="Compute threads. [default: all processors]"
)


def shapes_option(command: F) -> F:
    """``--shapes``, parsed."""
    return shapes_option_named("--shapes", "Input shapes, as trtexec writes them.")(command)


def shapes_option_named(name: str, text: str) -> Callable[[F], F]:
    """An option that takes shapes, parsed."""

    def parse(_: click.Context, __: click.Parameter, value: str | None) -> Any:
        return parse_shapes(value) if value else {}

    return click.option(name, callback=parse, metavar="NAME:1x3x640x640,…", help=text)


def read_inputs(pairs: Sequence[tuple[str, Path]]) -> dict[str, Any]:
    """Arrays of ``name=file.npy`` pairs; a pair without a name is an ``.npz`` of all.

    Raises
    ------
    InputError
        A file can't be read, or an input is given twice.
    """
    arrays: dict[str, Any] = {}
    origins: dict[str, Path] = {}
    for name, path in pairs:
        for key, array in ({name: load_npy(path)} if name else load_npz(path)).items():
            if key in arrays:
                raise InputError(
                    f"input {key!r} is given twice",
                    why=f"by {origins[key]} and by {path}",
                    hint="give each of them once",
                )
            arrays[key], origins[key] = array, path
    return arrays
