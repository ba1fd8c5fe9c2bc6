"""Options of representative inputs and lower precision, shared by several commands."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any, cast

import click

from swapnet.cli.options import PATH, F, together
from swapnet.data.images import PREPROCESSINGS
from swapnet.data.samples import Samples, image_size, open_samples
from swapnet.executor.engine import Engine
from swapnet.manifest import Precision
from swapnet.progress import Progress
from swapnet.ranges import METHODS, Method, RangeCache, load_ranges

__all__ = [
    "RANGE_OPTIONS",
    "RealInputs",
    "data_options",
    "precision_options",
    "ranges_of",
]

RANGE_OPTIONS = ("data", "calibration", "method", "percentile")
"""Options that `ranges_of` takes."""


@dataclass(frozen=True)
class RealInputs:
    """Where real inputs come from; false where ``--data`` is not given."""

    data: str | None = None
    limit: int | None = None
    preprocessing: str = ""

    def __bool__(self) -> bool:
        return self.data is not None

    def of(
        self,
        model: Path,
        shapes: Mapping[str, tuple[int, ...]] | None = None,
        *,
        is_engine: bool = False,
    ) -> Samples | None:
        """The samples that ``--data`` names; None where it is not given.

        ``model`` is an ONNX file, or an engine directory where ``is_engine`` says so. ``shapes``
        say the height and width of images, where the model leaves them open.
        """
        if self.data is None:
            return None
        from swapnet.builder.importing.inputs import inputs_of
        from swapnet.builder.importing.source import open_source

        return open_samples(
            self.data,
            Engine.open(model).built.inputs
            if is_engine
            else inputs_of(open_source(model).proto.graph),
            limit=self.limit,
            preprocessing=PREPROCESSINGS[self.preprocessing],
            size=image_size(shapes or {}),
        )


def data_options(*, required: bool = False) -> Callable[[F], F]:
    """Options that give a command its `RealInputs` as ``data``."""

    def gathering(command: F) -> F:
        @wraps(command)
        def gathered(
            *arguments: Any, data: str | None, limit: int | None, preprocessing: str, **others: Any
        ) -> Any:
            return command(*arguments, data=RealInputs(data, limit, preprocessing), **others)

        return cast(F, gathered)

    return together(
        click.option(
            "--data",
            required=required,
            metavar="FILE.npz|FOLDER|MODULE:FUNCTION",
            help="Real inputs of the model: an array for each input, with or without a "
            "leading sample axis; a folder of such files or of images; or a function that "
            "yields dicts of arrays.",
        ),
        click.option(
            "--limit", type=click.IntRange(1), metavar="N", help="Use the first N samples only."
        ),
        click.option(
            "--preprocessing",
            type=click.Choice(list(PREPROCESSINGS)),
            default="imagenet",
            show_default=True,
            help="Scaling of pixels: ImageNet's statistics, 0 to 1, -1 to 1, or 0 to 255.",
        ),
        gathering,
    )


precision_options = together(
    data_options(),
    click.option(
        "--calibration",
        metavar="CACHE",
        type=PATH,
        help="Ranges that were measured before, instead of --data.",
    ),
    click.option(
        "--method",
        type=click.Choice(METHODS),
        default="minmax",
        show_default=True,
        help="Way to take a range from the observed values.",
    ),
    click.option(
        "--percentile",
        type=click.FloatRange(0, 100, min_open=True),
        default=99.99,
        show_default=True,
        help="Percentile of absolute values, for --method percentile.",
    ),
    click.option(
        "--weight-only",
        is_flag=True,
        help="Store weights in lower precision, compute in float32.",
    ),
    click.option(
        "--exclude",
        metavar="NODE",
        multiple=True,
        help="Leave an operator in float32; can be repeated.",
    ),
    click.option(
        "--block-size",
        type=int,
        metavar="32|64|128",
        help="Number of int4 weights that share a scale: more of them save bytes and cost "
        "accuracy. [default: 32]",
    ),
)
"""Options of what becomes less precise, and how; `RANGE_OPTIONS` among them."""


def ranges_of(
    model: Path,
    *,
    precision: Precision,
    data: RealInputs,
    calibration: Path | None,
    method: Method,
    percentile: float,
    shapes: Mapping[str, tuple[int, ...]],
    budget: str = "100%",
    memory_limit: bool = False,
    progress: Progress,
) -> RangeCache | None:
    """Ranges out of a cache, else from data; None where neither is given."""
    if calibration:
        return load_ranges(calibration)
    samples = data.of(model, shapes)
    if samples is None:
        return None
    from swapnet.calibration import calibrate_model

    return calibrate_model(
        model,
        samples,
        precision=precision,
        method=method,
        percentile=percentile,
        budget=budget,
        memory_limit=memory_limit,
        shapes=shapes or None,
        apart=True,
        progress=progress,
    )
