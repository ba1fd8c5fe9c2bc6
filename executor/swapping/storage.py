"""Read ``weights.bin`` into memory: direct, buffered or mapped, as asked for."""

from __future__ import annotations

import mmap
import os
from contextlib import nullcontext
from enum import Enum
from pathlib import Path

from swapnet.errors import InputError, StorageError
from swapnet.executor.pace import Pace
from swapnet.manifest import EXTENT_ALIGNMENT

__all__ = ["LoadMode", "WeightFile"]


class LoadMode(str, Enum):
    """Ways to read from storage.

    ``AUTO`` is direct where the filesystem allows it, else buffered. ``DIRECT`` reads around the
    page cache (``O_DIRECT``). ``BUFFERED`` reads through it and drops the pages again. ``MMAP``
    copies from a mapping. Only ``AUTO`` may become another way.
    """

    AUTO = "auto"
    DIRECT = "direct"
    BUFFERED = "buffered"
    MMAP = "mmap"

    @classmethod
    def parse(cls, value: LoadMode | str) -> LoadMode:
        """A mode by name.

        Raises
        ------
        InputError
            There is no such mode.
        """
        try:
            return cls(value)
        except ValueError as error:
            raise InputError(
                f"{value!r} is not a load mode",
                why=f"modes are {', '.join(cls)}",
                hint="leave it out for auto",
            ) from error

    def __str__(self) -> str:
        return self.value


class WeightFile:
    """A weight file open for reading; safe to read from several threads.

    Parameters
    ----------
    path
        ``weights.bin``.
    mode
        Way to read; the attribute `mode` has the way that is used.
    pace
        Slows reading down.

    Raises
    ------
    StorageError
        The file can't be opened, or not in that mode.
    """

    def __init__(
        self, path: Path, mode: LoadMode = LoadMode.AUTO, *, pace: Pace | None = None
    ) -> None:
        self.path = path
        self._pace = pace
        self._mapping: mmap.mmap | None = None
        try:
            self._file, self.mode = _open(path, mode)
            self.nbytes = os.fstat(self._file).st_size
            if self.mode is LoadMode.MMAP and self.nbytes:
                self._mapping = mmap.mmap(self._file, self.nbytes, prot=mmap.PROT_READ)
        except OSError as error:
            refused_direct = mode is LoadMode.DIRECT and path.exists()
            raise StorageError(
                f"{path} can't be opened",
                why=error.strerror or str(error),
                hint="use --load-mode auto"
                if refused_direct
                else "build the engine again: swapnet build",
            ) from error

    def read_into(self, destination: memoryview, offset: int) -> None:
        """Fill ``destination`` with the bytes from ``offset`` on; releases the GIL.

        In direct mode the offset, the length and the address are multiples of 4096.

        Raises
        ------
        StorageError
            The system reports an error, or the file ends too early.
        """
        with nullcontext() if self._pace is None else self._pace.request(len(destination)):
            self._read_into(destination, offset)

    def _read_into(self, destination: memoryview, offset: int) -> None:
        wanted = len(destination)
        done = 0
        try:
            if self._mapping is not None:
                with (
                    memoryview(self._mapping) as whole,
                    whole[offset : offset + wanted] as part,
                ):
                    done = len(part)
                    destination[:done] = part
            else:
                while done < wanted:
                    count = os.preadv(self._file, [destination[done:]], offset + done)
                    if count == 0:
                        break
                    done += count
                if self.mode is LoadMode.BUFFERED:
                    os.posix_fadvise(self._file, offset, wanted, os.POSIX_FADV_DONTNEED)
        except OSError as error:
            raise StorageError(
                f"{self.path} can't be read",
                why=f"{wanted} bytes at {offset}: {error.strerror or error}",
                hint="check the storage, then: swapnet verify",
            ) from error
        if done < wanted:
            raise StorageError(
                f"{self.path} is too short",
                why=f"{wanted} bytes at {offset} were asked for, {done} are there",
                hint="build the engine again: swapnet build",
            )

    def close(self) -> None:
        """Close the file; reading afterwards is an error. Safe to call twice."""
        if self._mapping is not None:
            self._mapping.close()
            self._mapping = None
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def _open(path: Path, mode: LoadMode) -> tuple[int, LoadMode]:
    if mode in (LoadMode.AUTO, LoadMode.DIRECT):
        try:
            file = os.open(path, os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC)
            try:
                os.preadv(file, [mmap.mmap(-1, EXTENT_ALIGNMENT)], 0)
            except OSError:
                os.close(file)
                raise
            return file, LoadMode.DIRECT
        except OSError:
            if mode is LoadMode.DIRECT:
                raise
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    return file, LoadMode.BUFFERED if mode is LoadMode.AUTO else mode
