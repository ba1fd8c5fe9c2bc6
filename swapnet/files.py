"""Files that are whole or not there, and folders to work in that do not outlive their process."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO

from swapnet.errors import StorageError

__all__ = [
    "abandoned",
    "cache_folder",
    "check_writable",
    "claimed",
    "folder_bytes",
    "folder_of_temporaries",
    "is_in_page_cache",
    "make_folder",
    "replacing",
    "working_folder",
    "writing",
]

_SUFFIX = ".swapnet-tmp"
"""Marks folders as ours: others are never removed."""

_PAGES = 16
"""Pages of a file that the page cache is asked for."""

_ELSEWHERE = "choose another place, or free some space"


def cache_folder() -> Path:
    """``$SWAPNET_CACHE``, or ``~/.cache/swapnet``."""
    chosen = os.environ.get("SWAPNET_CACHE")
    return Path(chosen) if chosen else Path.home() / ".cache" / "swapnet"


def folder_bytes(folder: Path) -> int:
    """Bytes of all files in a folder and its folders."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def is_in_page_cache(path: Path) -> bool:
    """Whether the page cache holds most of a file, by a few of its pages.

    True where the filesystem can't say, as in memory.
    """
    with path.open("rb", buffering=0) as file:
        nbytes = path.stat().st_size
        pages = [_is_page_cached(file.fileno(), nbytes * i // _PAGES) for i in range(_PAGES)]
    return 2 * sum(pages) > len(pages)


def _is_page_cached(file: int, offset: int) -> bool:
    try:
        os.preadv(file, [bytearray(1)], offset, os.RWF_NOWAIT)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


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
    """A temporary file that takes the place of ``path`` when the block ends well.

    A symbolic link stays, and its target is replaced. Devices, FIFOs and the file that standard
    output goes to are not replaced: bytes are written to them.

    Raises
    ------
    StorageError
        The file can't be written.
    """
    temporary: Path | None = None
    try:
        with writing(path):
            place = _Place.of(path)
            handle, name = tempfile.mkstemp(prefix=f".{place.target.name}.", dir=place.temporaries)
            os.close(handle)
            temporary = Path(name)
            yield temporary
            if place.is_replaced:
                temporary.chmod(place.mode)
                temporary.replace(place.target)
            else:
                with temporary.open("rb") as written, place.open() as opened:
                    shutil.copyfileobj(written, opened)
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def folder_of_temporaries(path: Path) -> Path | None:
    """The folder for files that `replacing` moves to ``path``; None for the system's folder.

    Raises
    ------
    StorageError
        ``path`` is a folder, or the system refuses to look at it.
    """
    with writing(path):
        return _Place.of(path).temporaries


@dataclass(frozen=True)
class _Place:
    """A file that is written.

    Attributes
    ----------
    path, target
        As it was given, and where its links lead.
    mode
        Permissions that it gets.
    is_replaced
        By a rename; else bytes are written to what is there.
    stream
        Descriptor of the standard stream that goes to this file.
    """

    path: Path
    target: Path
    mode: int = 0o644
    is_replaced: bool = True
    stream: int | None = None

    @classmethod
    def of(cls, path: Path) -> _Place:
        target = Path(os.path.realpath(path))
        try:
            found = path.stat()
        except FileNotFoundError:
            return cls(path, target)
        if stat.S_ISDIR(found.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        stream = next(filter(partial(_goes_to, found), (1, 2)), None)
        is_replaced = stat.S_ISREG(found.st_mode) and stream is None
        return cls(path, target, stat.S_IMODE(found.st_mode), is_replaced, stream)

    @property
    def temporaries(self) -> Path | None:
        return self.target.parent if self.is_replaced else None

    def open(self) -> BinaryIO:
        if self.stream is None:
            return self.path.open("wb")
        # The descriptor is used, not its path: the file keeps what was written to it before.
        sys.stdout.flush()
        return os.fdopen(os.dup(self.stream), "wb")


def _goes_to(found: os.stat_result, descriptor: int) -> bool:
    try:
        return os.path.samestat(found, os.fstat(descriptor))
    except OSError:
        return False


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
        A file is a folder or a device that refuses, or its folder is missing or refuses.
    """
    for path in (Path(target) for target in targets if target and target != "-"):
        with writing(path):
            place = _Place.of(path)
        folder, why = place.target.parent, ""
        if not place.is_replaced:
            if place.stream is None and not os.access(path, os.W_OK):
                why = "it can't be written to"
        elif not folder.exists():
            why = "its folder is missing"
        elif not os.access(folder, os.W_OK):
            why = "its folder can't be written to"
        if why:
            raise StorageError(f"{path} can't be written", why=why, hint="choose another place")
