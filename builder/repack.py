"""Pack the weights of an engine again for this processor, from the originals that its folder holds.

``python -m swapnet.builder.repack`` is the child process of `swapnet.executor.repacking`.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import msgspec
import numpy as np
import onnx

from swapnet.builder.block_model import stored_bytes
from swapnet.builder.compilers.base import Engine
from swapnet.builder.compilers.onnxruntime import OnnxRuntimeCompiler
from swapnet.builder.compilers.packing import pack, unpacked_copies
from swapnet.builder.importing.graph import Constant
from swapnet.builder.stages import with_memory
from swapnet.builder.writing.blocks import Stored, store, with_skeleton
from swapnet.builder.writing.codecs import Coded
from swapnet.builder.writing.directory import build_folders, target_of
from swapnet.builder.writing.weights import StoredExtent, WeightWriter
from swapnet.errors import EngineError, InputError, ModelError
from swapnet.executor.backends.skeletons import Skeletons
from swapnet.executor.backends.windows import window_alignment
from swapnet.executor.repacking import Job
from swapnet.executor.swapping.storage import LoadMode, WeightFile
from swapnet.executor.swapping.verify import check_weights
from swapnet.fingerprint import cpu_fingerprint, kernel_fingerprint, processor_fingerprint
from swapnet.manifest import (
    WEIGHTS,
    Block,
    Compiled,
    Extent,
    Manifest,
    Shared,
    Weight,
    load_manifest,
    save_manifest,
)
from swapnet.process.serve import answering, serve
from swapnet.progress import Progress, silent
from swapnet.ranges import RANGES
from swapnet.shapes import SAMPLES
from swapnet.tensors import ONNX_TYPES

__all__ = ["repack"]

_DTYPES = {number: name for name, number in ONNX_TYPES.items()}

_HARDWARE_LAYOUT = "com.microsoft.nchwc"
"""Domain of operators whose weights have the layout of one processor."""


def repack(folder: Path, progress: Progress = silent) -> Manifest:
    """Pack the windows of an engine again; it stays as it was until all is written and measured.

    Delays, and what was measured at other shapes, go: they are of other kernels.

    Parameters
    ----------
    folder
        Engine directory.
    progress
        Called with each stage.

    Raises
    ------
    InputError
        No block has windows.
    EngineError
        The folder is no engine directory or is damaged, or its operators have the layout of another
        processor.
    ModelError
        ONNX Runtime refuses a block, or keeps a copy of what it packs.
    StorageError
        The folder can't be written.
    """
    folder = target_of(folder)
    manifest = load_manifest(folder)
    if not manifest.has_windows:
        raise InputError(
            f"{folder} has nothing to pack again",
            why="no block reads packed weights in place",
            hint=f"use it as it is; swapnet verify {folder} opens it",
        )
    skeletons = Skeletons(folder, manifest)
    models = {
        block.index: onnx.load_model_from_string(skeletons.read(block.index))
        for block in manifest.blocks
        if block.is_graph
    }
    compiled = _compiled_here(folder, manifest.compiled, list(models.values()))
    with (
        build_folders(folder) as (staging, work),
        closing(WeightFile(folder / WEIGHTS, LoadMode.BUFFERED)) as file,
    ):
        check_weights(manifest, file)
        shutil.copytree(folder / "blocks", staging / "blocks")
        for name, copy in ((SAMPLES, shutil.copytree), (RANGES, shutil.copyfile)):
            if (folder / name).exists():
                copy(folder / name, staging / name)
        rewritten = _Rewriter(manifest, models, file, staging, work).rewrite(progress)
        rewritten = msgspec.structs.replace(rewritten, compiled=compiled)
        save_manifest(staging, rewritten)
        progress("measure", 0, 1)
        rewritten = with_memory(rewritten, OnnxRuntimeCompiler().memory(staging, rewritten))
        save_manifest(staging, rewritten)
    return rewritten


def _compiled_here(folder: Path, compiled: Compiled, models: Sequence[onnx.ModelProto]) -> Compiled:
    """The record of an engine that is packed here."""
    layout, here = cpu_fingerprint(), processor_fingerprint()
    built = compiled.fingerprint
    if built not in (layout, here):
        is_bound = any(n.domain == _HARDWARE_LAYOUT for m in models for n in m.graph.node)
        is_same_kind = built.split("+")[0] == here.split("+")[0]
        if is_bound or not is_same_kind or built.endswith("+vnni"):
            raise EngineError(
                f"{folder} can't be packed again for this processor",
                why=f"its operators were compiled for {built}, here is {here}",
                hint=f"build it again here: swapnet build MODEL.onnx -o {folder}",
            )
        built = layout
    return msgspec.structs.replace(compiled, fingerprint=built, kernels=kernel_fingerprint())


class _Rewriter:
    """Writes all extents again, and the skeletons of blocks with windows."""

    def __init__(
        self,
        manifest: Manifest,
        models: dict[int, onnx.ModelProto],
        file: WeightFile,
        staging: Path,
        work: Path,
    ) -> None:
        self._manifest = manifest
        self._models = models
        self._places = {b.index: _places(models[b.index]) for b in manifest.blocks if b.windows}
        self._file = file
        self._staging = staging
        self._work = work
        self._moved: list[tuple[Extent, int]] = []
        """Plain parts of the file before, and their offsets in the new one."""

    def rewrite(self, progress: Progress) -> Manifest:
        manifest, path = self._manifest, self._staging / WEIGHTS
        with WeightWriter(path, window_alignment(), coded=bool(manifest.coded)) as writer:
            shared = [self._append(writer, each.extent, each.weights) for each in manifest.shared]
            stored: list[Stored] = []
            for block in manifest.blocks:
                progress("pack", block.index, len(manifest.blocks))
                weights = block.weights if block.is_graph else _rows(block.extent)
                stored.append(
                    self._pack(writer, block)
                    if block.windows
                    else Stored(self._append(writer, block.extent, weights))
                )
        return msgspec.structs.replace(
            manifest,
            blocks=tuple(map(self._block, manifest.blocks, stored)),
            weights_nbytes=writer.nbytes,
            shared=tuple(
                Shared(new.extent, new.checksum, new.weights, old.blocks)
                for old, new in zip(manifest.shared, shared, strict=True)
            ),
        )

    def _append(
        self, writer: WeightWriter, extent: Extent, weights: Sequence[Weight]
    ) -> StoredExtent:
        """Write weights as they are stored."""
        constants, coded = self._constants(extent, weights)
        stored = writer.append(constants, coded=coded)
        self._note(weights, stored)
        return stored

    def _pack(self, writer: WeightWriter, block: Block) -> Stored:
        """Pack the constants of a block, and write them with its other weights."""
        model, places = self._models[block.index], self._places[block.index]
        constants: list[Constant] = []
        for tensor in [t for t in model.graph.initializer if t.name in places]:
            dtype, offset = _DTYPES[tensor.data_type], places[tensor.name].offset
            shape = tuple(tensor.dims)
            constants.append(Constant.mapped(tensor.name, dtype, shape, self._file.path, offset))
            model.graph.initializer.remove(tensor)
        target = self._work / Path(block.file).name
        packed = pack(model, constants, target.with_suffix(".data"))
        if copied := unpacked_copies(packed, constants):
            raise ModelError(
                f"block {block.index} can't be packed for this processor",
                why=f"its kernels keep a copy of {copied[0]!r}",
                hint="build the engine again here: swapnet build",
            )
        held = [extent for extent in (block.extent, block.originals) if extent is not None]
        own = [c for c in constants if any(_has(e, places[c.name].offset) for e in held)]
        weights, coded = self._constants(block.extent, block.weights)
        engine = Engine("external", packed=packed)
        stored = store(writer, weights, engine, own, target, self._staging, coded)
        self._note(block.weights, stored.extent)
        kept = () if stored.originals is None else stored.originals.weights
        offsets = {**{weight.name: weight.offset for weight in kept}, **stored.in_place}
        self._moved += [(places[constant.name], offsets[constant.name]) for constant in own]
        return stored

    def _constants(self, extent: Extent, weights: Sequence[Weight]) -> tuple[list[Constant], Coded]:
        end = extent.offset + extent.plain_nbytes
        coded = frozenset(weight.name for weight in weights if weight.offset >= end)
        return [self._constant(extent, weight) for weight in weights], Coded(extent.codec, coded)

    def _constant(self, extent: Extent, weight: Weight) -> Constant:
        name, dtype, shape = weight.name, weight.dtype, weight.shape
        if weight.offset < extent.offset + extent.plain_nbytes:
            return Constant.mapped(name, dtype, shape, self._file.path, weight.offset)
        data = stored_bytes(self._file, extent, weight.offset, weight.nbytes)
        return Constant(name, dtype, shape, np.frombuffer(data, np.uint8))

    def _note(self, before: Sequence[Weight], after: StoredExtent) -> None:
        end = after.extent.offset + after.extent.plain_nbytes
        self._moved += [
            (Extent(old.offset, old.nbytes), new.offset)
            for old, new in zip(before, after.weights, strict=True)
            if new.offset < end
        ]

    def _place(self, offset: int) -> int:
        """Offset in the new file of a plain byte."""
        before, moved = next(pair for pair in self._moved if _has(pair[0], offset))
        return moved + offset - before.offset

    def _block(self, block: Block, stored: Stored) -> Block:
        places = self._places.get(block.index, {})
        originals = {name: self._place(place.offset) for name, place in places.items()}
        stored = with_skeleton(stored, originals, self._staging)
        lookup, kept = block.lookup, stored.originals
        if lookup is not None:
            rows = [msgspec.structs.replace(r, offset=self._place(r.offset)) for r in lookup.rows]
            lookup = msgspec.structs.replace(lookup, rows=tuple(rows))
        return msgspec.structs.replace(
            block,
            extent=stored.extent.extent,
            checksum=stored.extent.checksum,
            weights=stored.extent.weights if block.is_graph else (),
            windows=stored.extent.windows,
            originals=None if kept is None else kept.extent,
            originals_checksum="" if kept is None else kept.checksum,
            file_checksum=stored.file_checksum or block.file_checksum,
            skeleton_bytes=stored.file_nbytes or block.skeleton_bytes,
            lookup=lookup,
        )


def _places(model: onnx.ModelProto) -> dict[str, Extent]:
    """Places of a skeleton's originals in ``weights.bin``, by name."""
    places: dict[str, Extent] = {}
    for tensor in model.graph.initializer:
        if tensor.data_location == tensor.EXTERNAL:
            fields = {entry.key: entry.value for entry in tensor.external_data}
            places[tensor.name] = Extent(int(fields["offset"]), int(fields["length"]))
    return places


def _rows(extent: Extent) -> tuple[Weight, ...]:
    """The bytes of a table."""
    nbytes = extent.nbytes
    return (Weight("rows", "uint8", (nbytes,), extent.offset, nbytes),) if nbytes else ()


def _has(extent: Extent, offset: int) -> bool:
    return extent.offset <= offset < extent.end


def _repack_here(job: Job, _: Progress) -> None:
    """Pack an engine again, unless another process did meanwhile."""
    if load_manifest(Path(job.folder)).compiled.kernels != kernel_fingerprint():
        repack(Path(job.folder))


work = answering(Job, _repack_here)
"""Packs the engine again that the parent names."""

if __name__ == "__main__":
    sys.exit(serve(work))
