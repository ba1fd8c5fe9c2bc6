"""ONNX in, engine directory out."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import msgspec

from swapnet.builder.compilers.base import BlockMemory, Compiler, WeightStyle
from swapnet.builder.compilers.onnxruntime import OnnxRuntimeCompiler, OnnxRuntimeCudaCompiler
from swapnet.builder.compilers.tensorrt.compiler import TensorRTCompiler
from swapnet.builder.compilers.tensorrt.measured import measure_styles
from swapnet.builder.compilers.tensorrt.options import TensorRTOptions
from swapnet.builder.cutting.limits import Limits, choose_limits
from swapnet.builder.cutting.partition import assign_weights, partition
from swapnet.builder.importing.shapes import plan_shapes, plan_smallest
from swapnet.builder.importing.source import open_source
from swapnet.builder.precision.choose_faster import slower_in_int8
from swapnet.builder.precision.convert import PrecisionOptions, convert
from swapnet.builder.rewriting.narrowing import expanded_values, narrow_weights
from swapnet.builder.rewriting.optimise import TYPES, optimise
from swapnet.builder.rewriting.slicing import slice_operators
from swapnet.builder.writing.blocks import compile_parts, pieces_of
from swapnet.builder.writing.directory import staging_directory
from swapnet.errors import BackendUnavailableError, InputError
from swapnet.executor.backends import best_backend, can_run
from swapnet.manifest import Manifest, Precision, Source, load_manifest, save_manifest
from swapnet.progress import Progress, silent
from swapnet.ranges import RANGES, RangeCache, load_ranges, save_ranges
from swapnet.tensorrt import TENSORRT

__all__ = ["BACKENDS", "build"]

_NARROWER = {None: 1, "float16": 2, "int8": 4}
"""Float32 bytes over stored ones."""

BACKENDS = ("auto", "onnxruntime", "onnxruntime-cuda", "tensorrt", "tensorrt-rtx")


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
    exclude: Sequence[str] = (),
    shapes: Mapping[str, tuple[int, ...]] | None = None,
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
        ONNX file; external data lies beside it.
    folder
        Engine directory to write. An engine that is there is replaced when the new one is whole.
    backend
        One of `BACKENDS`; ``"auto"`` is TensorRT where it can run here, else ``"onnxruntime"``.
    max_block
        Limit of a block's weights, a size or bytes. By default, for ONNX Runtime, such that blocks
        in memory and sessions take the least together, between 256 KiB and 8 MiB; for TensorRT, a
        twelfth of the weights, between 4 and 64 MiB.
    smallest_budget
        A budget, a size or bytes, that should work: the default limit of a block is then a quarter
        of it for TensorRT, whose blocks are as coarse as it allows, and at most that for others.
    portable
        Leave out hardware layouts, so that the engine runs on any processor; ``onnxruntime`` only.
    precision
        ``"fp32"`` as the model is, ``"fp16"`` or ``"int8"``; ONNX Runtime on the CPU stores weights
        as float16 and computes in float32.
    calibration
        Ranges of the model's values, or the file that holds them (`calibrate_ranges`): int8 needs
        them, float16 leaves in float32 what overflows according to them.
    weight_only
        Store weights in that precision and compute in float32.
    exclude
        Names of operators that stay in float32.
    shapes
        Input shapes to plan for; symbolic dimensions that are not given are 1.
    weights, targets, hardware_compatibility, version_compatible, builder_optimization_level, \
workspace, min_shapes, process_per_block
        For ``tensorrt`` and ``tensorrt-rtx`` only, see `TensorRTOptions`; ``workspace`` is a size
        or bytes.
    progress
        Told of each stage.

    Returns
    -------
    Manifest
        What was written.

    Raises
    ------
    ModelError
        The model can't be read, or the runtime library refuses it.
    InputError
        An option is wrong or is not one of this backend's, or the ranges are of another model.
    StorageError
        The engine directory can't be written.
    BackendUnavailableError
        There is no such backend, or its library is not installed.
    """
    options = TensorRTOptions(
        weights=weights,
        targets=tuple(targets),
        hardware_compatibility=hardware_compatibility,
        version_compatible=version_compatible,
        builder_optimization_level=builder_optimization_level,
        workspace=workspace,
        min_shapes=min_shapes or {},
        process_per_block=process_per_block,
    )
    name = best_backend() if backend == "auto" else backend
    _check(name, options, portable=portable)
    chosen = PrecisionOptions(precision, weight_only, _ranges(calibration), tuple(exclude))
    chosen.check(name)
    progress("read", 0, 1)
    source = open_source(Path(model))
    limits_of = partial(
        choose_limits,
        name,
        max_block=max_block,
        smallest_budget=smallest_budget,
        workspace=workspace,
    )
    limits_of(source.weights_bytes)
    target = Path(folder)
    if os.path.islink(target):
        target = target.resolve()
    with (
        staging_directory(target) as staging,
        tempfile.TemporaryDirectory(prefix=f".{target.name}.work.", dir=target.parent) as hidden,
    ):
        work = Path(hidden)
        if precision != "fp32":
            progress("convert", 0, 1)
        place = work / "converted"
        place.mkdir()
        converted = convert(
            source,
            chosen,
            place,
            backend=name,
            portable=portable,
            slower=partial(slower_in_int8, shapes=shapes or {}),
        )
        narrower = _NARROWER[converted.narrow if converted.source is source else None]
        limits = limits_of(converted.source.weights_bytes // narrower)
        measured: Mapping[int, Mapping[WeightStyle, float]] = {}
        if name in TENSORRT and (weights or "auto") == "auto" and can_run(name):
            measured = measure_styles(
                lambda style, place: build(
                    model,
                    place,
                    backend=name,
                    max_block=limits.max_block_bytes,
                    smallest_budget=smallest_budget,
                    precision=precision,
                    calibration=chosen.ranges,
                    weight_only=weight_only,
                    exclude=exclude,
                    shapes=shapes,
                    weights=style,
                    targets=targets,
                    hardware_compatibility=hardware_compatibility,
                    version_compatible=version_compatible,
                    builder_optimization_level=builder_optimization_level,
                    workspace=workspace,
                    min_shapes=min_shapes,
                    process_per_block=process_per_block,
                    progress=progress,
                ),
                work,
            )
        compiler = _compiler(
            name,
            options,
            limits,
            work,
            measured,
            portable=portable,
            full_range=converted.full_range,
        )
        progress("optimise", 0, 1)
        graph = optimise(
            converted.source,
            work,
            operators=compiler.operators,
            shapes=shapes,
            keep_floats=converted.source is not source,
        )
        progress("shapes", 0, 1)
        graph = plan_shapes(graph, work / TYPES, shapes or {})
        if min_shapes:
            graph = plan_smallest(graph, work / TYPES, min_shapes)
        graph = slice_operators(graph, limits.max_block_bytes)
        if converted.narrow:
            graph = narrow_weights(graph, converted.narrow, work, keep=converted.keep)
        graph = compiler.prepare(graph)
        cutting = compiler.cutting(graph)
        parts = partition(
            graph,
            limits.max_block_bytes,
            cut_cost_bytes=cutting.cut_cost_bytes,
            uncut=cutting.uncut | expanded_values(graph),
        )
        ownership = assign_weights(graph, parts)
        pieces = pieces_of(graph, parts, ownership)
        manifest = compile_parts(
            graph,
            pieces,
            ownership,
            staging,
            work,
            compiler,
            source=Source(source.name, source.sha256, str(source.path.absolute())),
            max_block_bytes=limits.max_block_bytes,
            progress=progress,
        )
        manifest = msgspec.structs.replace(
            manifest, precision=precision, weight_only=chosen.is_stored_only(name)
        )
        save_manifest(staging, manifest)
        if chosen.ranges is not None:
            save_ranges(staging / RANGES, chosen.ranges)
        progress("measure", 0, 1)
        memory = compiler.memory(staging, manifest)
        save_manifest(staging, _with_memory(manifest, memory))
    return load_manifest(target)


def _ranges(calibration: str | Path | RangeCache | None) -> RangeCache | None:
    if calibration is None or isinstance(calibration, RangeCache):
        return calibration
    return load_ranges(Path(calibration))


def _check(backend: str, options: TensorRTOptions, *, portable: bool) -> None:
    """Raises what `build` says."""
    if backend not in BACKENDS:
        raise BackendUnavailableError(
            f"there is no backend {backend!r}",
            why=f"this SwapNet builds for {', '.join(BACKENDS)}",
            hint="leave --backend out",
        )
    given = [] if backend in TENSORRT else options.given
    if portable and backend != "onnxruntime":
        given = ["portable", *given]
    if given:
        raise InputError(
            f"--{given[0].replace('_', '-').replace('targets', 'target')} is not for {backend}",
            why="it is for "
            + ("onnxruntime" if given[0] == "portable" else " and ".join(TENSORRT)),
            hint="leave it out, or choose another --backend",
        )
    if backend in TENSORRT:
        options.check(backend)


def _compiler(
    backend: str,
    options: TensorRTOptions,
    limits: Limits,
    work: Path,
    measured_ms: Mapping[int, Mapping[WeightStyle, float]],
    *,
    portable: bool,
    full_range: bool,
) -> Compiler:
    if backend in TENSORRT:
        return TensorRTCompiler(backend, options, limits, work, measured_ms)
    if backend == "onnxruntime-cuda":
        return OnnxRuntimeCudaCompiler()
    return OnnxRuntimeCompiler(portable=portable, full_range=full_range)


def _with_memory(manifest: Manifest, memory: Sequence[BlockMemory]) -> Manifest:
    """The manifest with what its blocks need beside their weights."""
    blocks = tuple(
        msgspec.structs.replace(
            block,
            activation_bytes=needed.activation_bytes,
            skeleton_bytes=needed.skeleton_bytes,
        )
        for block, needed in zip(manifest.blocks, memory, strict=True)
    )
    return msgspec.structs.replace(manifest, blocks=blocks)
