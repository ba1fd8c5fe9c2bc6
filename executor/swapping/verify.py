"""Compare the checksums of the weights with those in the manifest."""

from __future__ import annotations

import hashlib

from swapnet.errors import EngineError
from swapnet.executor.planning.usage import READ_BYTES
from swapnet.executor.swapping.arena import Arena
from swapnet.executor.swapping.loading import Reader
from swapnet.manifest import Extent, Manifest

__all__ = ["check_weights"]


def check_weights(manifest: Manifest, storage: Reader) -> None:
    """Read every extent once, as it is stored, and compare its SHA-256.

    Raises
    ------
    EngineError
        An extent has another checksum; the message names its block.
    StorageError
        An extent can't be read.
    """
    buffer = Arena(READ_BYTES)
    for shared in manifest.shared:
        name = f"block {shared.blocks[0]} and others"
        _check(shared.extent, shared.checksum, name, storage, buffer)
    for block in manifest.blocks:
        name = f"block {block.index}"
        _check(block.extent, block.checksum, name, storage, buffer)
        if block.originals is not None:
            _check(block.originals, block.originals_checksum, name, storage, buffer)


def _check(extent: Extent, checksum: str, name: str, storage: Reader, buffer: Arena) -> None:
    digest = hashlib.sha256()
    for start in range(extent.offset, extent.end, buffer.nbytes):
        view = buffer.view(0, min(buffer.nbytes, extent.end - start))
        storage.read_into(view, start)
        digest.update(view)
    if (found := digest.hexdigest()) != checksum:
        raise EngineError(
            f"the weights of {name} were changed after they were written",
            why=f"their checksum is {found[:12]}…, it should be {checksum[:12]}…",
            hint="build the engine again: swapnet build",
        )
