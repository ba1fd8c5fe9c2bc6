"""Options that several commands share."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import click

from swapnet.custom_ops import use_custom_ops
from swapnet.errors import InputError
from swapnet.executor.report.page import check_reportable
from swapnet.executor.swapping.patience import STORAGE_TIMEOUT_MS
from swapnet.executor.swapping.storage import LoadMode
from swapnet.files import check_writable
from swapnet.tensors import parse_dims, parse_shapes
from swapnet.units import parse_size

__all__ = [
    "PATH",
    "F",
    "budget_option",
    "conversations_option",
    "custom_ops_option",
    "engine_argument",
    "engines_option",
    "gpu_index_option",
    "gpu_memory_option",
    "load_mode_option",
    "measure_option",
    "named_file",
    "named_files",
    "report_option",
    "shapes_option",
    "shapes_option_named",
    "state_option",
    "storage_option",
    "storage_timeout_option",
    "threads_option",
    "together",
    "trace_options",
]

F = TypeVar("F", bound=Callable[..., Any])

PATH = click.Path(path_type=Path)


def together(*options: Callable[[F], F]) -> Callable[[F], F]:
    """Several options as one, in the order of the help."""

    def add(command: F) -> F:
        for option in reversed(options):
            command = option(command)
        return command

    return add


engine_argument = click.argument("engine", metavar="DIR", type=PATH)
budget_option = click.option(
    "--budget",
    required=True,
    metavar="SIZE",
    help="Memory of the model: 64MiB, 25% of its demand, weights:25%, or auto: the smallest that "
    "is predicted to lose at most 5% to storage and strips.",
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
state_option = click.option(
    "--state",
    default="",
    metavar="OUT=IN",
    help="Names of a decoder's cache, such as 'present.*=past.*'. [default: those that exporters "
    "use]",
)
conversations_option = click.option(
    "--conversations",
    type=int,
    default=1,
    show_default=True,
    metavar="N",
    help="Prompts that are answered at a time, with one pass of weights for a token of each.",
)
gpu_memory_option = click.option(
    "--gpu-memory",
    type=click.Choice(["auto", "device", "managed", "mapped"]),
    default="auto",
    show_default=True,
    help="Where weights lie on a GPU; auto decides by its attributes.",
)
gpu_index_option = click.option(
    "--device",
    "gpu_index",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    metavar="N",
    help="Number of the GPU, for engines of a GPU.",
)
engines_option = click.option(
    "--engines",
    default="engines",
    show_default=True,
    type=PATH,
    help="Folder of engine directories; missing and outdated ones are built.",
)


class _Threads(click.IntRange):
    """A number of threads; trtexec's flag of the same name has none."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, str) and value.startswith("-"):
            self.fail(
                f"{value!r} follows it, not a number. Give compute threads, like --threads 2; "
                "trtexec's flag of this name is not needed.",
                param,
                ctx,
            )
        return super().convert(value, param, ctx)


threads_option = click.option(
    "--threads", type=_Threads(1), help="Compute threads. [default: all processors]"
)


def _report(_: click.Context, __: click.Parameter, target: str | None) -> str | None:
    if target:
        check_writable(target)
        check_reportable()
    return target


report_option = click.option(
    "--report",
    "report_target",
    metavar="FILE.html",
    callback=_report,
    help="Write a page with plots and tables, one file for any browser.",
)


trace_options = together(
    click.option("--export-trace", metavar="FILE", help="Write the timeline, for Perfetto."),
    click.option(
        "--trace-inferences",
        type=click.IntRange(1),
        default=3,
        show_default=True,
        metavar="N",
        help="Number of the latest inferences in the timeline; of several DNNs, of the one that is "
        "asked least.",
    ),
    report_option,
)

_SLOWEST_BYTES_PER_S = 1000
"""Less is a size without its unit."""


def _bytes_per_s(_: click.Context, __: click.Parameter, value: str | None) -> float | None:
    if value is None:
        return None
    try:
        parsed = parse_size(value)
        why = f"it is {parsed} bytes per second, and must be at least {_SLOWEST_BYTES_PER_S}"
    except InputError as error:
        parsed, why = 0, error.why
    if parsed < _SLOWEST_BYTES_PER_S:
        raise InputError(
            f"--storage {value or repr(value)} is invalid",
            why=why,
            hint="give bytes per second, like --storage 400MB",
        )
    return float(parsed)


storage_option = click.option(
    "--storage",
    "storage_bytes_per_s",
    metavar="SIZE",
    callback=_bytes_per_s,
    help="Bytes per second of a slower storage, like 90MB for a card. [default: this device's]",
)


storage_timeout_option = click.option(
    "--storage-timeout-ms",
    default=STORAGE_TIMEOUT_MS,
    show_default=True,
    type=float,
    metavar="MS",
    help="Longest time that storage may take for one request.",
)


def _use_custom_ops(_: click.Context, __: click.Parameter, libraries: tuple[Path, ...]) -> None:
    use_custom_ops(*libraries)


custom_ops_option = click.option(
    "--custom-ops",
    multiple=True,
    type=PATH,
    metavar="LIB.so",
    expose_value=False,
    callback=_use_custom_ops,
    help="Library of custom operators for ONNX Runtime, one option each.",
)


def _parsing(parse: Callable[[str], Any]) -> Callable[..., Any]:
    """A callback that parses the text of an option; what is not given is empty."""
    return lambda _, __, text: {} if text is None else parse(text)


def shapes_option_named(name: str, text: str) -> Callable[[F], F]:
    """An option that takes shapes, parsed."""
    callback = _parsing(parse_shapes)
    return click.option(name, callback=callback, metavar="NAME:1x3x640x640,…", help=text)


shapes_option = together(
    shapes_option_named(
        "--shapes",
        "Input shapes, as trtexec writes them. A scalar is NAME: alone; a name with a comma may "
        "be in double quotes.",
    ),
    click.option(
        "--dims",
        callback=_parsing(parse_dims),
        metavar="NAME=SIZE,…",
        help="Sizes of the symbols in input shapes, such as batch=1,past=511.",
    ),
)


def named_file(text: str, names: Iterable[str], mark: str) -> tuple[str, Path]:
    """A name and a file of ``NAME=FILE``; the name is empty where it is a file or folder of all.

    Names and files may have the ``mark`` between them in them; a name may stand in single quotes.
    Of the ``names`` of the model's inputs the longest that fits is taken.
    """
    quoted, is_quoted, rest = text.removeprefix("'").partition(f"'{mark}")
    if text.startswith("'") and is_quoted:
        return quoted, Path(rest)
    fitting = [name for name in names if text.startswith(f"{name}{mark}")]
    if fitting:
        name = max(fitting, key=len)
        return name, Path(text[len(name) + len(mark) :])
    if Path(text).exists():
        return "", Path(text)
    name, _, file = text.rpartition(mark)
    return name, Path(file)


def named_files(text: str, names: Sequence[str]) -> Iterator[tuple[str, Path]]:
    """Names and files of ``NAME:FILE,NAME:FILE``; see `named_file`.

    A comma separates two of them where a name of the model follows, or where no file has it.
    """
    known = "|".join(map(re.escape, sorted(names, key=len, reverse=True)))
    starts = (
        [found.start() for found in re.finditer(f"(?:^|,)'?(?:{known})'?:", text)] if known else []
    )
    bounds = sorted({0, *starts, len(text)})
    for start, end in pairwise(bounds):
        name, file = named_file(text[start:end].removeprefix(","), names, ":")
        first, *others = [str(file)] if file.exists() else str(file).split(",")
        yield name, Path(first)
        yield from (named_file(other, (), ":") for other in others if other)
