"""ONNX in, engine directory out."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from math import isqrt
from pathlib import Path

import msgspec

import swapnet
from swapnet.builder.compile import compile_parts
from swapnet.builder.directory import staging_directory
from swapnet.builder.optimise import TYPES, optimise
from swapnet.builder.partition import assign_weights, partition
from swapnet.builder.shapes import plan_shapes
from swapnet.builder.slicing import slice_operators
from swapnet.builder.source import SourceModel, open_source
from swapnet.calibration.activations import Measurement, measure
from swapnet.errors import BackendUnavailableError, InputError
from swapnet.executor.backends.onnxruntime import version
from swapnet.fingerprint import PORTABLE, cpu_fingerprint
from swapnet.manifest import (
    EXTENT_ALIGNMENT,
    SESSION_BYTES,
    Compiled,
    Manifest,
    Source,
    load_manifest,
    save_manifest,
)
from swapnet.progress import Progress, silent
from swapnet.units import parse_size

__all__ = ["BACKENDS", "build"]

BACKENDS = ("auto", "onnxruntime")
_BLOCK_RANGE_BYTES = (256 << 10, 8 << 20)
"""Smaller blocks cost more calls than they save bytes; larger ones overlap badly."""

_PLACES = 2
"""Blocks in memory at once while streaming, at least: one executes, one is being read. With ``n``
blocks of ``weights / n`` bytes they and the sessions take the least memory together where
``n * SESSION_BYTES == _PLACES * weights / n``."""


def build(
    model: str | Path,
    folder: str | Path,
    *,
    backend: str = "auto",
    max_block: str | int | None = None,
    portable: bool = False,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
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
        ``"auto"`` or ``"onnxruntime"``.
    max_block
        Limit of a block's weights, a size or bytes; by default such that blocks in memory and
        sessions take the least together, between 256 KiB and 8 MiB.
    portable
        Leave out hardware layouts, so that the engine runs on any processor.
    shapes
        Input shapes to plan for; symbolic dimensions that are not given are 1.
    progress
        Told of each stage.

    Returns
    -------
    Manifest
        What was written.

    Raises
    ------
    ModelError
        The model can't be read, or ONNX Runtime refuses it.
    InputError
        An option is wrong.
    StorageError
        The engine directory can't be written.
    BackendUnavailableError
        There is no such backend.
    """
    if backend not in BACKENDS:
        raise BackendUnavailableError(
            f"there is no backend {backend!r}",
            why=f"this SwapNet builds for {', '.join(BACKENDS)}",
            hint="leave --backend out",
        )
    progress("read", 0, 1)
    source = open_source(Path(model))
    max_block_bytes = _max_block_bytes(max_block, source)
    target = Path(folder)
    with (
        staging_directory(target) as staging,
        tempfile.TemporaryDirectory(prefix=f".{target.name}.work.", dir=target.parent) as work,
    ):
        progress("optimise", 0, 1)
        graph = optimise(source, Path(work), portable=portable, shapes=shapes)
        progress("shapes", 0, 1)
        graph = plan_shapes(graph, Path(work) / TYPES, shapes or {})
        graph = slice_operators(graph, max_block_bytes)
        parts = partition(graph, max_block_bytes)
        manifest = compile_parts(
            graph,
            parts,
            assign_weights(graph, parts),
            staging,
            source=Source(source.name, source.sha256, str(source.path.absolute())),
            compiled=Compiled(
                "onnxruntime",
                version(),
                PORTABLE if portable else cpu_fingerprint(),
                swapnet.__version__,
            ),
            max_block_bytes=max_block_bytes,
            progress=progress,
        )
        save_manifest(staging, manifest)
        progress("measure", 0, 1)
        save_manifest(staging, _with_measurement(manifest, measure(staging)))
    return load_manifest(target)


def _max_block_bytes(max_block: str | int | None, source: SourceModel) -> int:
    if max_block is None:
        smallest, largest = _BLOCK_RANGE_BYTES
        balanced = isqrt(source.weights_bytes * SESSION_BYTES // _PLACES)
        return max(smallest, min(largest, balanced))
    nbytes = parse_size(max_block) if isinstance(max_block, str) else max_block
    if nbytes < EXTENT_ALIGNMENT:
        raise InputError(
            f"blocks of {nbytes} bytes are too small",
            why=f"a block is at least {EXTENT_ALIGNMENT} bytes, one page of direct I/O",
            hint="give --max-block 1MiB or more",
        )
    return nbytes


def _with_measurement(manifest: Manifest, measured: Measurement) -> Manifest:
    """The manifest with what its blocks need beside their weights.

    A block's skeleton is counted in proportion to its operators.
    """
    sizes = [(len(block.operators) + 1) * block.is_graph for block in manifest.blocks]
    share = measured.skeleton_bytes / max(sum(sizes), 1)
    blocks = tuple(
        msgspec.structs.replace(
            block,
            activation_bytes=peak,
            skeleton_bytes=int(share * size) + SESSION_BYTES if block.is_graph else 0,
        )
        for block, peak, size in zip(
            manifest.blocks, measured.limiting_activation_bytes, sizes, strict=True
        )
    )
    return msgspec.structs.replace(manifest, blocks=blocks)
