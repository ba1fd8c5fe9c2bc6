"""The cache folder, and folders that appear in it whole or not at all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from swapnet.errors import StorageError
from swapnet.files import cache_folder, working_folder

__all__ = ["create", "root"]


def root() -> Path:
    """Return the cache folder: ``$SWAPNET_CACHE``, or ``~/.cache/swapnet``."""
    return cache_folder()


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
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with working_folder(f".{folder.name}.", folder.parent) as partial:
            partial.chmod(0o755)
            fill(partial)
            try:
                partial.rename(folder)
            except OSError:
                if not folder.is_dir():
                    raise
    except OSError as error:
        raise StorageError(
            f"{folder} can't be written",
            why=str(error),
            hint="Free some space there, or set SWAPNET_CACHE to another folder.",
        ) from error
    return folder
