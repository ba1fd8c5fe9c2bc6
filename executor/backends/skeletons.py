"""Read the skeletons of an engine directory, and check them against the manifest."""

from __future__ import annotations

from pathlib import Path

from swapnet.errors import EngineError
from swapnet.manifest import Manifest, sha256_of

__all__ = ["Skeletons"]


class Skeletons:
    """The files of an engine's blocks."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self._folder = folder
        self._blocks = manifest.blocks

    def read(self, index: int) -> bytes:
        """Bytes of a block's file, read again with each call: a session has a copy of them.

        Raises
        ------
        EngineError
            The file is missing or was changed.
        """
        block = self._blocks[index]
        path = self._folder / block.file
        rebuild = "build the engine again: swapnet build"
        try:
            data = path.read_bytes()
        except OSError as error:
            raise EngineError(
                f"{path} can't be read", why=error.strerror or str(error), hint=rebuild
            ) from error
        if (found := sha256_of(data)) != block.file_checksum:
            raise EngineError(
                f"{path} was changed after it was written",
                why=f"its checksum is {found[:12]}…, it should be {block.file_checksum[:12]}…",
                hint=rebuild,
            )
        return data
