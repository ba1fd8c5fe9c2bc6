"""Files that are whole or not there."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from swapnet.errors import StorageError

__all__ = ["check_writable", "make_folder", "replacing"]


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file beside ``path`` that takes its place when the block ends well.

    Raises
    ------
    StorageError
        The file can't be written.
    """
    temporary: Path | None = None
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        temporary.chmod(0o644)
        yield temporary
        temporary.replace(path)
    except OSError as error:
        raise StorageError(
            f"{path} can't be written",
            why=error.strerror or str(error),
            hint="choose another place, or free some space",
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def make_folder(path: Path) -> None:
    """Make a folder, with those above it.

    Raises
    ------
    StorageError
        The system refuses.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(
            f"{path} can't be made",
            why=error.strerror or str(error),
            hint="choose another place, or free some space",
        ) from error


def check_writable(path: Path) -> None:
    """Whether a file can be written there, asked before the work is done.

    Raises
    ------
    StorageError
        Its folder is not there or refuses.
    """
    if not os.access(path.parent, os.W_OK):
        raise StorageError(
            f"{path} can't be written",
            why="its folder refuses" if path.parent.exists() else "its folder is not there",
            hint="choose another place",
        )
