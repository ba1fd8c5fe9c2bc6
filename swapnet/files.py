"""Files that are whole or not there."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO

from swapnet.errors import StorageError

__all__ = ["check_writable", "folder_of_temporaries", "make_folder", "replacing"]


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file that takes the place of ``path`` when the block ends well.

    A symbolic link stays, and its target is replaced. What is no regular file, such as a device or
    a FIFO, and the file that standard output goes to are not replaced: bytes are written to them.

    Raises
    ------
    StorageError
        The file can't be written.
    """
    temporary: Path | None = None
    try:
        place = _Place.of(path)
        handle, name = tempfile.mkstemp(prefix=f".{place.target.name}.", dir=place.temporaries)
        os.close(handle)
        temporary = Path(name)
        temporary.chmod(place.mode)
        yield temporary
        if place.is_replaced:
            temporary.replace(place.target)
        else:
            with temporary.open("rb") as written, place.open() as opened:
                shutil.copyfileobj(written, opened)
    except OSError as error:
        raise _refused(path, error) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def folder_of_temporaries(path: Path) -> Path | None:
    """Where files are made that `replacing` moves to ``path``; None for the system's folder.

    Raises
    ------
    StorageError
        ``path`` is a folder, or can't be looked at.
    """
    try:
        return _Place.of(path).temporaries
    except OSError as error:
        raise _refused(path, error) from error


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


def _refused(path: Path, error: OSError) -> StorageError:
    return StorageError(
        f"{path} can't be written",
        why=error.strerror or str(error),
        hint="choose another place, or free some space",
    )


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
        It is a folder or a device that refuses, or its folder is not there or refuses.
    """
    try:
        place = _Place.of(path)
    except OSError as error:
        raise _refused(path, error) from error
    folder = place.target.parent
    if not place.is_replaced:
        why = "" if place.stream or os.access(path, os.W_OK) else "it refuses"
    elif not folder.exists():
        why = "its folder is not there"
    else:
        why = "" if os.access(folder, os.W_OK) else "its folder refuses"
    if why:
        raise StorageError(f"{path} can't be written", why=why, hint="choose another place")
