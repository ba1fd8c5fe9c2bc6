"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from swapnet.arrays import load_npy, load_npz
from swapnet.executor.swapping.storage import LoadMode
from swapnet.tensors import parse_shapes

__all__ = [
    "PATH",
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

PATH = click.Path(path_type=Path)

engine_argument = click.argument("engine", metavar="DIR", type=PATH)
budget_option = click.option(
    "--budget",
    required=True,
    metavar="SIZE",
    help="Memory of the model: 64MiB, 25% of its demand, or weights:25%.",
)
load_mode_option = click.option(
    "--load-mode",
    type=click.Choice([mode.value for mode in LoadMode]),
    default=LoadMode.AUTO.value,
    show_default=True,
    help="Way to read weights.",
)
measure_option = click.option(
    "measure",
    "--measure/--no-measure",
    "--calibrate/--no-calibrate",
    default=True,
    help="Measure this device first if it has no stored delays. [default: measure]",
)
gpu_memory_option = click.option(
    "--gpu-memory",
    type=click.Choice(["auto", "device", "managed", "mapped"]),
    default="auto",
    show_default=True,
    help="Where weights lie on a GPU; auto decides by its attributes.",
)
engines_option = click.option(
    "--engines",
    default="engines",
    show_default=True,
    type=PATH,
    help="Folder of engine directories; missing and outdated ones are built.",
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


def read_inputs(pairs: tuple[tuple[str, Path], ...]) -> dict[str, Any]:
    """Arrays by name out of ``.npy`` files; a pair without a name is an ``.npz`` of all.

    Raises
    ------
    InputError
        A file can't be read.
    """
    arrays: dict[str, Any] = {}
    for name, path in pairs:
        if not name:
            arrays.update(load_npz(path))
            continue
        arrays[name] = load_npy(path)
    return arrays
