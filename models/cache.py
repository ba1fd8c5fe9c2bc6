"""Folders that appear in the cache whole or not at all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from swapnet.files import working_folder, writing

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
    with writing(folder, "free some space, or set SWAPNET_CACHE to another folder"):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with working_folder(f".{folder.name}.", folder.parent) as partial:
            partial.chmod(0o755)
            fill(partial)
            try:
                partial.rename(folder)
            except OSError:
                if not folder.is_dir():
                    raise
    return folder
