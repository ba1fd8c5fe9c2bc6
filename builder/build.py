"""ONNX in, engine directory out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from swapnet.builder.child import build_in_child
from swapnet.builder.compilers.tensorrt.options import TensorRTOptions
from swapnet.builder.importing.gguf.importer import imported
from swapnet.builder.importing.source import open_source
from swapnet.builder.options import BuildOptions
from swapnet.builder.precision.convert import PrecisionOptions
from swapnet.builder.stages import build_into
from swapnet.builder.writing.directory import build_folders, target_of
from swapnet.data.samples import Data
from swapnet.manifest import Manifest, Precision, load_manifest
from swapnet.progress import Progress, silent
from swapnet.ranges import RangeCache, load_ranges

__all__ = ["build", "build_with", "options_of"]


def build(
    model: str | Path,
    folder: str | Path,
    *,
    backend: str = "auto",
    max_block: str | int | None = None,
    smallest_budget: str | int | None = None,
    portable: bool = False,
    precision: Precision = "fp32",
    calibration: str | Path | RangeCache | None = None,
    weight_only: bool = False,
    block_size: int | None = None,
    exclude: Sequence[str] = (),
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    dims: Mapping[str, int] | None = None,
    data: Data | None = None,
    weights: str | None = None,
    targets: Sequence[str] = (),
    hardware_compatibility: str | None = None,
    version_compatible: bool = False,
    builder_optimization_level: int | None = None,
    workspace: str | int | None = None,
    min_shapes: Mapping[str, tuple[int, ...]] | None = None,
    process_per_block: bool = False,
    progress: Progress = silent,
) -> Manifest:
    """Cut a model into blocks and write an engine directory.

    Parameters
    ----------
    model
        ONNX file; external data lies beside it. Or the folder that onnxruntime-genai or optimum
        wrote, of which the engine keeps the tokenizer; or a GGUF file of a Llama-like model.
    folder
        Engine directory to write. An engine that is there is replaced when the new one is whole.
    backend
        One of `swapnet.builder.BACKENDS`; ``"auto"`` is TensorRT where it can run here, else
        ``"onnxruntime"``.
    max_block, smallest_budget
        Limit of a block's weights, and a budget that should work: bytes, or sizes such as
        ``"1MiB"``. `BuildOptions` says what follows where they are left out.
    portable
        Leave out hardware layouts, so that the engine runs on any processor; ``onnxruntime`` only.
    precision
        ``"fp32"`` as the model is, ``"fp16"``, ``"int8"`` or ``"int4"``; ONNX Runtime on the CPU
        stores weights as float16 and computes in float32. ``"int4"`` is for it only.
    calibration
        Ranges of the model's values, or the file that holds them (`calibrate_ranges`): int8 needs
        them, float16 leaves in float32 what overflows according to them.
    weight_only
        Store weights in that precision and compute in float32.
    block_size
        Number of int4 weights that share a scale: 32 (the default), 64 or 128.
    exclude
        Names of operators that stay in float32.
    shapes, dims
        Input shapes to plan for, by input, and sizes by symbol, such as ``{"past": 511}``. Those
        that are not given are assumed, by their names and places: `Manifest.symbols` has them.
    data
        Real inputs, to plan with and to measure on in place of seeded ones: a dict of arrays, one
        for each sample, or the name of an ``.npz``, a folder, or ``"module:function"``. Sizes that
        are not given are the largest of all samples. The engine keeps the largest samples.
    weights, targets, hardware_compatibility, version_compatible, builder_optimization_level, \
workspace, min_shapes
        For ``tensorrt`` and ``tensorrt-rtx`` only: attributes of `TensorRTOptions`.
    process_per_block
        Build in a process of its own, which returns all of its memory; each block of TensorRT's
        has one too.
    progress
        Called with each stage.

    Returns
    -------
    Manifest
        Record of what was written.

    Raises
    ------
    ModelError
        The model can't be read, or the runtime library refuses it.
    InputError
        An option is wrong or is not one of this backend's, the ranges are of another model, or the
        data does not fit the model.
    StorageError
        The engine directory can't be written.
    BackendUnavailableError
        There is no such backend, or its library is not installed.
    BackendError
        The process of the build was killed or died.
    """
    options = options_of(
        backend=backend,
        max_block=max_block,
        smallest_budget=smallest_budget,
        portable=portable,
        precision=precision,
        calibration=calibration,
        weight_only=weight_only,
        block_size=block_size,
        exclude=exclude,
        shapes=shapes,
        dims=dims or {},
        data=data,
        weights=weights,
        targets=targets,
        hardware_compatibility=hardware_compatibility,
        version_compatible=version_compatible,
        builder_optimization_level=builder_optimization_level,
        workspace=workspace,
        min_shapes=min_shapes,
        process_per_block=process_per_block,
    )
    return build_with(options, model, folder, progress=progress)


def options_of(
    *,
    precision: Precision = "fp32",
    calibration: str | Path | RangeCache | None = None,
    weight_only: bool = False,
    block_size: int | None = None,
    exclude: Sequence[str] = (),
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    targets: Sequence[str] = (),
    min_shapes: Mapping[str, tuple[int, ...]] | None = None,
    **others: Any,
) -> BuildOptions:
    """The keywords of `build` as one value; raises as `load_ranges`."""
    if isinstance(calibration, (str, Path)):
        calibration = load_ranges(Path(calibration))
    of_tensorrt = {f.name: others.pop(f.name) for f in fields(TensorRTOptions) if f.name in others}
    return BuildOptions(
        precision=PrecisionOptions(
            precision, weight_only, calibration, tuple(exclude), block_size=block_size
        ),
        shapes=shapes or {},
        tensorrt=TensorRTOptions(
            targets=tuple(targets), min_shapes=min_shapes or {}, **of_tensorrt
        ),
        **others,
    )


def build_with(
    options: BuildOptions, model: str | Path, folder: str | Path, *, progress: Progress = silent
) -> Manifest:
    """Build with the keywords of `build` as one value; returns and raises the same."""
    if options.process_per_block:
        return build_in_child(options, model, folder, progress=progress)
    options = options.checked()
    progress("read", 0, 1)
    with imported(Path(model), target_of(Path(folder)).absolute().parent) as path:
        source = open_source(path, Path(model))
        options.limits(source)  # refuses wrong sizes before anything is written
        with build_folders(Path(folder)) as (staging, work):
            build_into(options, source, staging, work, progress)
    return load_manifest(target_of(Path(folder)))
