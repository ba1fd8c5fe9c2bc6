"""Engine directories of the fake TensorRT, made from those of ONNX Runtime's CUDA provider."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec
import onnx
from onnx import helper

from swapnet.manifest import (
    EXTENT_ALIGNMENT,
    WEIGHTS,
    Block,
    Extent,
    Manifest,
    load_manifest,
    save_manifest,
    sha256_of,
)
from swapnet.tensors import ONNX_TYPES
from swapnet.units import align_up

__all__ = ["as_tensorrt"]


def as_tensorrt(
    source: Path,
    folder: Path,
    *,
    backend: str = "tensorrt",
    embedded: Callable[[Block], bool] = lambda _: False,
) -> Manifest:
    """Copy an engine and say that TensorRT compiled it.

    Parameters
    ----------
    source, folder
        From where to where.
    backend
        Which of the two.
    embedded
        Whose weights go into the plan; only blocks that have some are asked.
    """
    shutil.copytree(source, folder)
    manifest = load_manifest(source)
    before = (source / WEIGHTS).read_bytes()
    blocks: list[Block] = []
    shifts: dict[Extent, int] = {each.extent: 0 for each in manifest.shared}
    read = {run.offset for b in manifest.blocks if b.lookup for run in b.lookup.rows}
    with (folder / WEIGHTS).open("wb") as file:
        file.write(before[: max((each.extent.end for each in manifest.shared), default=0)])
        for block in manifest.blocks:
            data = before[block.extent.offset : block.extent.end]
            looked_up = any(weight.offset in read for weight in block.weights)
            if block.is_graph and block.weights and not looked_up and embedded(block):
                plan = _with_weights(folder / block.file, block, before)
                data = plan + bytes(align_up(len(plan), EXTENT_ALIGNMENT) - len(plan))
                block = msgspec.structs.replace(
                    block,
                    weights=(),
                    weight_style="embedded",
                    plan_nbytes=len(plan),
                    file="",
                    file_checksum="",
                )
            shifts[block.extent] = file.tell() - block.extent.offset
            blocks.append(_moved(block, file.tell(), data))
            file.write(data)
        size = file.tell()
    changed = msgspec.structs.replace(
        manifest,
        compiled=msgspec.structs.replace(
            manifest.compiled, backend=backend, version="10.0.fake", fingerprint="any"
        ),
        blocks=tuple(_looking(block, shifts) for block in blocks),
        weights_nbytes=size,
    )
    save_manifest(folder, changed)
    return load_manifest(folder)


def _moved(block: Block, offset: int, data: bytes) -> Block:
    shift = offset - block.extent.offset
    return msgspec.structs.replace(
        block,
        extent=Extent(offset, len(data)),
        checksum=sha256_of(data),
        weights=tuple(msgspec.structs.replace(w, offset=w.offset + shift) for w in block.weights),
    )


def _looking(block: Block, shifts: Mapping[Extent, int]) -> Block:
    """Rows lie in some extent, of this block or of another."""
    if block.lookup is None:
        return block
    rows = tuple(
        msgspec.structs.replace(run, offset=run.offset + shift)
        for run in block.lookup.rows
        for extent, shift in shifts.items()
        if extent.offset <= run.offset < extent.end
    )
    return msgspec.structs.replace(block, lookup=msgspec.structs.replace(block.lookup, rows=rows))


def _with_weights(path: Path, block: Block, weights: bytes) -> bytes:
    """The skeleton with the block's own weights as initialisers."""
    model = onnx.load_model(path)
    own = {w.name: w for w in block.weights}
    kept = [v for v in model.graph.input if v.name not in own]
    del model.graph.input[:]
    model.graph.input.extend(kept)
    for name, weight in own.items():
        raw = weights[weight.offset : weight.offset + weight.nbytes]
        kind = ONNX_TYPES[weight.dtype]
        model.graph.initializer.append(helper.make_tensor(name, kind, weight.shape, raw, raw=True))
    return bytes(model.SerializeToString(deterministic=True))
