"""Folders that appear in the cache whole or not at all."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Callable
from pathlib import Path

from swapnet.files import writing

__all__ = ["create"]


def create(folder: Path, fill: Callable[[Path], None]) -> Path:
    """Return `folder`, after filling it if it does not exist.

    `fill` writes into an empty sibling folder, which is then renamed: a run that fails or is killed
    leaves nothing under the final name. If two processes race, the first rename wins.

    Raises
    ------
    StorageError
        The folder can't be written.
    """
    if folder.is_dir():
        return folder
    partial = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}")
    try:
        with writing(folder, "free some space, or set SWAPNET_CACHE to another folder"):
            partial.mkdir(parents=True)
            fill(partial)
            try:
                partial.rename(folder)
            except OSError:
                if not folder.is_dir():
                    raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder
