"""Ranges of a model's values as lower precision needs them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from swapnet.arrays import Array
from swapnet.builder.importing.source import open_source
from swapnet.builder.precision.normalise import normalise
from swapnet.builder.precision.selection import activation_names, channelled, check_int8
from swapnet.calibration.ranges.calibrate import calibrate_ranges
from swapnet.calibration.ranges.graph import work_folder
from swapnet.manifest import Precision
from swapnet.progress import Progress, silent
from swapnet.ranges import Method, RangeCache

__all__ = ["calibrate_model"]


def calibrate_model(
    model: str | Path,
    samples: Iterable[Mapping[str, Array]],
    *,
    precision: Precision = "int8",
    method: Method = "minmax",
    percentile: float = 99.99,
    budget: str | int = "100%",
    memory_limit: bool = False,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    apart: bool = False,
    progress: Progress = silent,
) -> RangeCache:
    """Ranges and means of the values of a model, from running it swapped on representative inputs.

    A range is of finite values: infinite ones, such as those of masks, do not count.

    Parameters
    ----------
    model
        ONNX file of any size.
    samples
        Inputs by name, one sample after the other; read once.
    precision
        ``"int8"`` needs ranges of its operators' inputs and outputs, and means of the inputs of
        weighted ones; ``"fp16"`` needs ranges of all values.
    method, percentile
        Way to take ranges; ``percentile`` is of absolute values, for that method.
    budget
        Memory of the model while it runs: a size, bytes or a share.
    memory_limit
        Run under the kernel's limit of that budget.
    shapes
        Input shapes to plan for; by default those of the largest sample.
    apart
        Build what is observed in a process of its own, as the command line does.
    progress
        Called with each stage.

    Raises
    ------
    InputError
        A sample does not fit the model, or a value is NaN.
    ModelError
        The model can't be read or run.
    BudgetError
        The budget is too small.
    """
    source = open_source(Path(model))
    with work_folder(source.path) as folder:
        normal = normalise(source, folder)
        if precision == "int8":
            check_int8(normal.proto.graph, source.name)
        graph = normal.proto.graph
        return calibrate_ranges(
            normal.path,
            samples,
            tensors=activation_names(graph) if precision == "int8" else None,
            channels=channelled(graph) if precision == "int8" else None,
            method=method,
            percentile=percentile,
            budget=budget,
            memory_limit=memory_limit,
            shapes=shapes,
            apart=apart,
            source_sha256=source.identity,
            source_name=source.name,
            progress=progress,
        )
