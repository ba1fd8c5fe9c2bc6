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
    "writing",
]

_SUFFIX = ".swapnet-tmp"
"""Marks folders as ours: others are never removed."""

_ELSEWHERE = "choose another place, or free some space"


def cache_folder() -> Path:
    """``$SWAPNET_CACHE``, or ``~/.cache/swapnet``."""
    chosen = os.environ.get("SWAPNET_CACHE")
    return Path(chosen) if chosen else Path.home() / ".cache" / "swapnet"


@contextmanager
def writing(target: Path | str, hint: str = _ELSEWHERE) -> Iterator[None]:
    """Refusals of the system as our own error.

    Parameters
    ----------
    target
        The file or folder that is written, as messages call it.
    hint
        Advice to the user.

    Raises
    ------
    StorageError
        The block raises an OSError.
    """
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"{target} can't be written", why=error.strerror or str(error), hint=hint
        ) from error


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
        with writing(path):
            handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
            os.close(handle)
            temporary = Path(name)
            temporary.chmod(0o644)
            yield temporary
            temporary.replace(path)
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
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)


def check_writable(*targets: Path | str | None) -> None:
    """Refuse files that can't be written, before the work is done.

    Parameters
    ----------
    targets
        Files; None and ``-`` (standard output) need no check.

    Raises
    ------
    StorageError
        A file's folder is missing or refuses.
    """
    for path in (Path(target) for target in targets if target and target != "-"):
        if not os.access(path.parent, os.W_OK):
            raise StorageError(
                f"{path} can't be written",
                why="its folder can't be written to"
                if path.parent.exists()
                else "its folder is missing",
                hint="choose another place",
            )
