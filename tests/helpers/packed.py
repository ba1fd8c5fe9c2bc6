"""Engines as they come from another processor: packed for other kernels."""

from __future__ import annotations

from pathlib import Path

import msgspec
import onnx

from swapnet.manifest import WEIGHTS, Block, load_manifest, save_manifest, sha256_of

__all__ = ["OTHER_KERNELS", "pack_elsewhere"]

OTHER_KERNELS = "x86_64+other"


def pack_elsewhere(folder: Path) -> None:
    """Change what was packed, with checksums that are right, and say that other kernels did it."""
    manifest = load_manifest(folder)
    data = bytearray((folder / WEIGHTS).read_bytes())
    blocks: list[Block] = []
    for block in manifest.blocks:
        originals = _originals(folder / block.file) if block.windows else set()
        for window in block.windows:
            if window.offset not in originals:
                packed = slice(window.offset, window.end)
                data[packed] = bytes(byte ^ 0x5A for byte in data[packed])
        stored = bytes(data[block.extent.offset : block.extent.end])
        blocks.append(msgspec.structs.replace(block, checksum=sha256_of(stored)))
    (folder / WEIGHTS).write_bytes(data)
    compiled = msgspec.structs.replace(manifest.compiled, kernels=OTHER_KERNELS)
    save_manifest(
        folder, msgspec.structs.replace(manifest, blocks=tuple(blocks), compiled=compiled)
    )


def _originals(skeleton: Path) -> set[int]:
    """Offsets of what is read in place as it is."""
    model = onnx.load(skeleton, load_external_data=False)
    return {
        int(entry.value)
        for tensor in model.graph.initializer
        for entry in tensor.external_data
        if entry.key == "offset"
    }
