"""Load bytes from storage to a place in the arena, straight or through other memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, wait
from contextlib import contextmanager
from functools import partial
from typing import Protocol

import numpy as np

from swapnet.errors import BackendError, StorageError
from swapnet.executor.planning.plan import Place, Read, reads_of
from swapnet.executor.planning.usage import READ_BYTES
from swapnet.executor.swapping.codecs import expand
from swapnet.executor.swapping.moments import Mark, Passed
from swapnet.executor.swapping.patience import LAST_LOOK_S, Patience
from swapnet.executor.swapping.readers import Workers

__all__ = [
    "READERS",
    "BeforeRead",
    "DirectLoader",
    "Loader",
    "Reader",
    "Writable",
    "fill",
    "load_once",
    "loading",
    "pieces",
    "unreadable",
    "unusable",
]

READERS = 3
"""Number of requests in flight while resident blocks are read."""

BeforeRead = Callable[[Read], None]
"""Called before a request overwrites its place; tests poison the place."""


class Reader(Protocol):
    """Storage that can be read from any offset."""

    def read_into(self, destination: memoryview, offset: int) -> None:
        """Fill ``destination`` with the bytes from ``offset`` on."""


class Writable(Protocol):
    """Memory that the host writes to."""

    def view(self, offset: int, nbytes: int) -> memoryview:
        """Writable bytes ``offset`` to ``offset + nbytes``."""


class Loader(Protocol):
    """Brings the bytes of requests to their places; safe to use from several threads."""

    @property
    def largest_bytes(self) -> int:
        """Upper limit of the bytes of one request."""

    def load(self, read: Read, after: Mark | None) -> Mark:
        """Bring one request to its place.

        Parameters
        ----------
        read
            Source and destination.
        after
            Moment from which nothing uses the place any more; None where nothing does now.

        Returns
        -------
        Mark
            Moment from which the bytes are there.

        Raises
        ------
        StorageError
            The bytes can't be read.
        BackendError
            The bytes can't be brought to the device.
        """

    def reset(self) -> None:
        """Forget blocks that came in part: nothing is in flight, and reading begins again."""

    def close(self) -> None:
        """Give its own memory back. Safe to call twice."""


class DirectLoader:
    """Reads into the place itself; see `Loader`."""

    largest_bytes = READ_BYTES

    def __init__(
        self, storage: Reader, arena: Writable, *, before_read: BeforeRead | None = None
    ) -> None:
        self._storage = storage
        self._arena = arena
        self._before_read = before_read

    def load(self, read: Read, after: Mark | None) -> Mark:
        if after is not None:
            after.wait()
        if self._before_read is not None:
            self._before_read(read)
        place = self._arena.view(read.arena_offset, read.nbytes)
        fill(self._storage, place, read)
        return Passed()

    def reset(self) -> None:
        pass

    def close(self) -> None:
        pass


def pieces(block: int, place: Place, largest_bytes: int) -> Iterator[Read]:
    """Requests that fill a whole place, for a block."""
    for extent, offset in place.offsets():
        yield from reads_of(block, extent, offset, (0, extent.nbytes), largest_bytes, 0)


def fill(storage: Reader, place: memoryview, read: Read) -> None:
    """Read to ``place`` what is stored, and undo its codec there.

    Raises
    ------
    StorageError
        The bytes can't be read.
    """
    begin = read.nbytes - read.stored_bytes
    storage.read_into(place[begin:], read.file_offset)
    if begin:
        plain = read.stored_bytes - begin
        whole = np.frombuffer(place, np.uint8)
        whole[:plain] = whole[begin : begin + plain]
        expand(whole[plain:], read.codec)


def load_once(loader: Loader, reads: Sequence[Read], patience: Patience | None = None) -> None:
    """Bring resident blocks to their places; raises as `loading`."""
    with loading(loader, reads, patience):
        pass


@contextmanager
def loading(
    loader: Loader, reads: Sequence[Read], patience: Patience | None = None
) -> Iterator[None]:
    """Bring resident blocks to their places beside the ``with`` statement, which ends with them.

    Several requests are in flight. After an error in the statement no more of them begin.

    Raises
    ------
    StorageError, BackendError
        A request failed; the message names the block.
    StalledError
        One did not come back.
    """

    def fetch(read: Read) -> Mark:
        try:
            return loader.load(read, None)
        except (StorageError, BackendError) as error:
            raise unusable(read.block, error) from error

    limit = patience or Patience()
    workers = Workers(READERS, "swapnet-load")
    futures = [workers.submit(partial(fetch, read)) for read in reads]
    failure: BaseException | None = None
    try:
        try:
            yield
        except BaseException as error:
            failure = error
            _cancel(futures)
        for read, future in zip(reads, futures, strict=True):
            since_s = time.perf_counter()
            while not wait([future], limit.look_s(since_s)).done:
                if limit.left_s(since_s) <= 0 and not wait([future], LAST_LOOK_S).done:
                    name = f"block {read.block}"
                    raise limit.error(name, read.stored_bytes, read.file_offset, since_s)
            if failure is None and (failure := future.exception()) is not None:
                _cancel(futures)
        if failure is not None:
            raise failure
        for future in futures:
            future.result().wait()
    finally:
        failure = None  # its traceback has this frame, which would keep it
        workers.close()


def _cancel(futures: Iterable[Future[Mark]]) -> None:
    for future in futures:
        future.cancel()


def unreadable(block: int, error: BaseException) -> StorageError:
    """The error of a failed read of a block."""
    return StorageError(
        f"block {block} could not be read",
        why=error.why if isinstance(error, StorageError) else str(error),
        hint="check the storage, then: swapnet verify",
    )


def unusable(block: int, error: BaseException) -> StorageError | BackendError:
    """The error of a failed load: like `unreadable`, unless the device refused the bytes."""
    if not isinstance(error, BackendError):
        return unreadable(block, error)
    return BackendError(
        f"block {block} could not be loaded", why=f"{error.what}: {error.why}", hint=error.hint
    )
