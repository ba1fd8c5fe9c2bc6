"""The cache folder, and folders that appear in it whole or not at all."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path

from swapnet.files import writing

__all__ = ["create", "root"]


def root() -> Path:
    """Return the cache folder: ``$SWAPNET_CACHE``, or ``~/.cache/swapnet``."""
    chosen = os.environ.get("SWAPNET_CACHE")
    return Path(chosen) if chosen else Path.home() / ".cache" / "swapnet"


def create(folder: Path, fill: Callable[[Path], None]) -> Path:
    """Return `folder`, filling it first if it does not exist.

    Parameters
    ----------
    folder
        The folder wanted.
    fill
        Writes the contents into the empty sibling folder it is given. That sibling is then
        renamed, so a run that is killed or fails leaves nothing under the final name. Where two
        processes race, the first rename wins and the other copy is dropped.

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
