"""Options of representative inputs and lower precision, shared by several commands."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from swapnet.calibration.data.images import PREPROCESSINGS
from swapnet.cli.options import PATH
from swapnet.errors import InputError
from swapnet.manifest import Precision
from swapnet.progress import Progress
from swapnet.ranges import METHODS, Method, RangeCache, load_ranges

if TYPE_CHECKING:
    from swapnet.calibration.data.samples import Samples

__all__ = ["RANGE_OPTIONS", "data_options", "open_data", "precision_options", "ranges_of"]

RANGE_OPTIONS = ("data", "limit", "preprocessing", "calibration", "method", "percentile")
"""Options that `ranges_of` takes."""

F = TypeVar("F", bound=Callable[..., Any])


def data_options(*, required: bool = False) -> Callable[[F], F]:
    """Where representative inputs come from."""

    def add(command: F) -> F:
        for option in (
            click.option(
                "--preprocessing",
                type=click.Choice(list(PREPROCESSINGS)),
                default="imagenet",
                show_default=True,
                help="Scaling of pixels: ImageNet's statistics, 0 to 1, -1 to 1, or 0 to 255.",
            ),
            click.option(
                "--limit", type=click.IntRange(1), metavar="N", help="Use the first N samples only."
            ),
            click.option(
                "--data",
                required=required,
                metavar="DIR|FILE.npz|MODULE:FUNCTION",
                help="Representative inputs: images, arrays with a leading sample axis, or a "
                "function that yields dicts of arrays.",
            ),
        ):
            command = option(command)
        return command

    return add


def precision_options(command: F) -> F:
    """Options of what becomes less precise, and how; `RANGE_OPTIONS` among them."""
    for option in (
        click.option(
            "--exclude",
            metavar="NODE",
            multiple=True,
            help="Leave an operator in float32; can be repeated.",
        ),
        click.option(
            "--weight-only",
            is_flag=True,
            help="Store weights in lower precision, compute in float32.",
        ),
        click.option(
            "--percentile",
            type=click.FloatRange(0, 100, min_open=True),
            default=99.99,
            show_default=True,
            help="Percentile of absolute values, for --method percentile.",
        ),
        click.option(
            "--method",
            type=click.Choice(METHODS),
            default="minmax",
            show_default=True,
            help="Way to take a range from the observed values.",
        ),
        click.option(
            "--calibration",
            metavar="CACHE",
            type=PATH,
            help="Ranges that were measured before, instead of --data.",
        ),
    ):
        command = option(command)
    return data_options()(command)


def open_data(
    model: Path,
    data: str,
    *,
    limit: int | None,
    preprocessing: str,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
) -> Samples:
    """The samples that ``--data`` names.

    Parameters
    ----------
    model
        ONNX file that takes them.
    data, limit, preprocessing
        As on the command line.
    shapes
        Input shapes: height and width of images, where the model leaves them open.

    Raises
    ------
    InputError
        They can't be read, or do not fit this model.
    """
    from swapnet.calibration.data.samples import inputs_of, open_samples

    size = next((shape[-2:] for shape in (shapes or {}).values() if len(shape) == 4), None)
    return open_samples(
        data,
        inputs_of(model),
        limit=limit,
        preprocessing=PREPROCESSINGS[preprocessing],
        size=(size[0], size[1]) if size else None,
    )


def ranges_of(
    model: Path,
    *,
    precision: Precision,
    data: str | None,
    calibration: Path | None,
    method: Method,
    percentile: float,
    limit: int | None,
    preprocessing: str,
    shapes: Mapping[str, tuple[int, ...]],
    budget: str = "100%",
    memory_limit: bool = False,
    progress: Progress,
) -> RangeCache | None:
    """Ranges out of a cache or from data; None where neither is given.

    Raises
    ------
    InputError
        Both are given, or one of them is wrong.
    """
    if data and calibration:
        raise InputError(
            "both --data and --calibration are given",
            why="ranges come from one of them",
            hint="leave one out",
        )
    if calibration:
        return load_ranges(calibration)
    if not data:
        return None
    from swapnet.calibration import calibrate_model

    return calibrate_model(
        model,
        open_data(model, data, limit=limit, preprocessing=preprocessing, shapes=shapes),
        precision=precision,
        method=method,
        percentile=percentile,
        budget=budget,
        memory_limit=memory_limit,
        shapes=shapes or None,
        progress=progress,
    )
