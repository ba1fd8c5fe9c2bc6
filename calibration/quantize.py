"""Ranges of an ONNX model from representative inputs, and the model in lower precision."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from swapnet.calibration.ranges import calibrate_ranges
from swapnet.errors import InputError, StorageError
from swapnet.executor.backends.base import Array
from swapnet.files import make_folder
from swapnet.manifest import Precision
from swapnet.progress import Progress, silent
from swapnet.ranges import Method, RangeCache

__all__ = ["calibrate_model", "check_apart", "quantize"]


def check_apart(model: Path, *targets: Path) -> None:
    """Refuse to write over the model, its weights, or one file twice.

    Parameters
    ----------
    model
        ONNX file, which is there.
    targets
        Files to write.

    Raises
    ------
    InputError
        Two of them are one file.
    """
    from onnx.external_data_helper import ExternalDataInfo, uses_external_data

    from swapnet.builder.source import open_source

    tensors = open_source(model).proto.graph.initializer
    read = {ExternalDataInfo(t).location for t in tensors if uses_external_data(t)}
    taken = {model.resolve(), *((model.parent / name).resolve() for name in read)}
    for target in targets:
        for place in (target, target.with_name(f"{target.name}.data")):
            if place.resolve() in taken:
                raise InputError(
                    f"{place} can't be written",
                    why="the model or another output is that file",
                    hint="choose another name for it",
                )
        taken.add(target.resolve())


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
    progress: Progress = silent,
) -> RangeCache:
    """Ranges of the values of a model, from running it swapped on representative inputs.

    Parameters
    ----------
    model
        ONNX file, of any size.
    samples
        Inputs by name, one sample after the other; iterated more than once.
    precision
        ``"int8"`` needs ranges of what its operators read and write, ``"fp16"`` of all values.
    method, percentile
        How ranges are taken; ``percentile`` is of absolute values, for that method.
    budget
        All memory of the model while it runs; a size, bytes or a share.
    memory_limit
        Run under the kernel's limit of that budget.
    shapes
        Input shapes to plan for; by default those of the largest sample.
    progress
        Told of each stage.

    Raises
    ------
    InputError
        A sample is not what the model takes, or a value is not finite.
    ModelError
        The model can't be read or run.
    BudgetError
        The budget is too small.
    """
    from swapnet.builder.precision.normalise import normalise
    from swapnet.builder.precision.selection import activation_names, check_int8
    from swapnet.builder.source import open_source

    source = open_source(Path(model))
    with tempfile.TemporaryDirectory(prefix="swapnet-calibration-") as folder:
        normal = normalise(source, Path(folder))
        if precision == "int8":
            check_int8(normal.proto.graph, source.name)
        return calibrate_ranges(
            normal.path,
            samples,
            tensors=activation_names(normal.proto.graph) if precision == "int8" else None,
            method=method,
            percentile=percentile,
            budget=budget,
            memory_limit=memory_limit,
            shapes=shapes,
            source_sha256=source.sha256,
            source_name=source.name,
            progress=progress,
        )


def quantize(
    model: str | Path,
    output: str | Path,
    *,
    precision: Precision = "int8",
    ranges: RangeCache | None = None,
    weight_only: bool = False,
    per_channel: bool = True,
    exclude: Sequence[str] = (),
) -> Path:
    """Write a model in lower precision, of standard ONNX operators that TensorRT takes too.

    int8 is Q/DQ pairs with zero point 0; float16 keeps the types of inputs and outputs.

    Parameters
    ----------
    model
        ONNX file.
    output
        File to write; one that is there is replaced when the new one is whole. Weights of 2 GiB or
        more lie in a file beside it, named after it.
    precision
        ``"int8"`` or ``"fp16"``.
    ranges
        Of `calibrate_model`: int8 needs them, float16 leaves in float32 what overflows.
    weight_only
        Weights in int8, widened where they are used; no ranges are needed.
    per_channel
        A scale for each output channel of a weight, else one for all of it.
    exclude
        Names of operators that stay in float32.

    Returns
    -------
    Path
        ``output``.

    Raises
    ------
    InputError
        There are no ranges, they are of another model, or an excluded operator does not exist.
    ModelError
        The model can't be read, or nothing of it computes in int8.
    StorageError
        The file can't be written.
    """
    import onnx

    from swapnet.builder.precision.convert import PrecisionOptions, interchange
    from swapnet.builder.source import PROTOBUF_LIMIT_BYTES, open_source

    if precision == "fp32":
        raise InputError(
            "fp32 is what the model is", why="there is nothing to do", hint="give fp16 or int8"
        )
    options = PrecisionOptions(precision, weight_only, ranges, tuple(exclude), per_channel)
    options.check("tensorrt")
    source = open_source(Path(model))
    target = Path(output)
    check_apart(Path(model), target)
    make_folder(target.absolute().parent)
    try:
        with tempfile.TemporaryDirectory(
            prefix=f".{target.name}.", dir=target.absolute().parent
        ) as hidden:
            folder = Path(hidden)
            proto = interchange(source, options, folder)
            onnx.load_external_data_for_model(proto, str(folder))
            large = proto.ByteSize() >= PROTOBUF_LIMIT_BYTES
            data = f"{target.name}.data"
            written = folder / "written"
            written.mkdir()
            onnx.save_model(
                proto, written / target.name, save_as_external_data=large, location=data
            )
            for name in (data, target.name) if large else (target.name,):
                (written / name).replace(target.parent / name)
    except OSError as error:
        raise StorageError(
            f"{target} can't be written",
            why=error.strerror or str(error),
            hint="choose another place, or free some space",
        ) from error
    return target
