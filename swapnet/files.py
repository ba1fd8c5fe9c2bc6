"""Files that are whole or not there, and folders to work in that do not outlive their process."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from swapnet.errors import StorageError

__all__ = [
    "abandoned",
    "cache_folder",
    "check_writable",
    "claimed",
    "make_folder",
    "replacing",
    "working_folder",
]

_SUFFIX = ".swapnet-tmp"
"""Marks folders as ours: others are never removed."""


def cache_folder() -> Path:
    """``$SWAPNET_CACHE``, or ``~/.cache/swapnet``."""
    chosen = os.environ.get("SWAPNET_CACHE")
    return Path(chosen) if chosen else Path.home() / ".cache" / "swapnet"


@contextmanager
def working_folder(prefix: str, place: Path | None = None) -> Iterator[Path]:
    """A folder that is removed when the block ends.

    A process that is killed can't remove its own: the next call with the same prefix and place
    removes it.

    Parameters
    ----------
    prefix
        Start of the folder's name.
    place
        Where to make it; None for the system's temporary folder.

    Raises
    ------
    OSError
        The folder can't be made.
    """
    place = place or Path(tempfile.gettempdir())
    for left in abandoned(prefix, place):
        shutil.rmtree(left, ignore_errors=True)
    with claimed(prefix, place) as folder:
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def claimed(prefix: str, place: Path) -> Iterator[Path]:
    """A new folder that is not `abandoned` while the block runs; it stays afterwards.

    Raises
    ------
    OSError
        The folder can't be made.
    """
    while True:
        folder = Path(tempfile.mkdtemp(prefix=prefix, suffix=_SUFFIX, dir=place))
        # Another process may take it for an abandoned one before it is locked.
        with suppress(FileNotFoundError):
            handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            with suppress(OSError):  # no locks here: then nobody else gets one either
                fcntl.flock(handle, fcntl.LOCK_EX)
            if folder.exists():
                break
            os.close(handle)
    try:
        yield folder
    finally:
        os.close(handle)


def abandoned(prefix: str, place: Path) -> Iterator[Path]:
    """Folders of processes that have ended, each locked until the next one is asked for.

    Parameters
    ----------
    prefix, place
        As they were given to `working_folder` or `claimed`.
    """
    name = re.compile(re.escape(prefix) + "[a-z0-9_]{8}" + re.escape(_SUFFIX))
    with suppress(OSError):
        for folder in [path for path in place.iterdir() if name.fullmatch(path.name)]:
            with suppress(OSError):
                handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    yield folder
                finally:
                    os.close(handle)


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
