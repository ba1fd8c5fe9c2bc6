"""Rows of a table in storage: only those asked for are read, neighbours in one request."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from swapnet.errors import InputError
from swapnet.executor.arena import Arena
from swapnet.executor.backends.base import Array
from swapnet.executor.memory import READ_BYTES
from swapnet.executor.pipeline import Reader
from swapnet.manifest import EXTENT_ALIGNMENT, Lookup
from swapnet.tensors import numpy_dtype
from swapnet.units import align_up

__all__ = ["RowReader"]

_LANES = 12
"""Small requests in flight: they wait for the large ones of the ring."""

_GAP_BYTES = 32 << 10
"""Rows that are nearer than this are read in one request."""


@dataclass(frozen=True)
class _Span:
    """Aligned bytes of the file that hold some of the wanted rows."""

    offset: int
    nbytes: int
    first: int
    last: int
    """Positions among the sorted wanted rows, both included."""


class RowReader:
    """Reads rows of one table.

    Parameters
    ----------
    name
        Of the input that indexes it, for messages.
    lookup
        The table.
    storage
        The weight file.
    """

    def __init__(self, name: str, lookup: Lookup, storage: Reader) -> None:
        self._name = name
        self._lookup = lookup
        self._storage = storage
        self._first_rows = np.cumsum([0] + [run.count for run in lookup.rows])
        self._offsets = np.array([run.offset for run in lookup.rows], np.int64)
        self._staging = Arena(READ_BYTES)
        self._pool = ThreadPoolExecutor(_LANES, thread_name_prefix="swapnet-rows")
        self.read_bytes = 0
        """Since the reader was made."""

    def rows(self, indices: Array) -> Array:
        """The rows at ``indices``.

        Parameters
        ----------
        indices
            Integers of any shape; negative ones count from the end.

        Returns
        -------
        numpy.ndarray
            Shape ``indices.shape + row_shape``; bfloat16 as its bits in uint16.

        Raises
        ------
        InputError
            An index is outside of the table.
        """
        count = self._lookup.count
        flat = indices.astype(np.int64).reshape(-1)
        outside = (flat < -count) | (flat >= count)
        if outside.any():
            raise InputError(
                f"index {flat[outside][0]} in {self._name!r} is outside of its table",
                why=f"the table has {count} rows",
                hint=f"give indices from {-count} to {count - 1}",
            )
        wanted, positions = np.unique(np.where(flat < 0, flat + count, flat), return_inverse=True)
        row_nbytes = self._lookup.row_nbytes
        found = np.empty((len(wanted), row_nbytes), np.uint8)
        runs = np.searchsorted(self._first_rows, wanted, side="right") - 1
        offsets = self._offsets[runs] + (wanted - self._first_rows[runs]) * row_nbytes
        for batch in self._batches(offsets):
            self._read(batch, offsets, found)
        dtype = numpy_dtype(self._lookup.dtype)
        shape = (*indices.shape, *self._lookup.row_shape)
        return found[positions.reshape(-1)].view(dtype).reshape(shape)

    def close(self) -> None:
        """Stop the reading threads. Safe to call twice."""
        self._pool.shutdown()

    def _batches(self, offsets: npt.NDArray[np.int64]) -> Iterator[list[_Span]]:
        """Spans that fill the staging memory, batch after batch."""
        batch: list[_Span] = []
        filled = 0
        for span in self._spans(offsets):
            if filled + span.nbytes > self._staging.nbytes and batch:
                yield batch
                batch, filled = [], 0
            batch.append(span)
            filled += span.nbytes
        if batch:
            yield batch

    def _spans(self, offsets: npt.NDArray[np.int64]) -> Iterator[_Span]:
        first = 0
        for position in range(1, len(offsets) + 1):
            if position < len(offsets):
                gap = offsets[position] - offsets[position - 1] - self._lookup.row_nbytes
                length = offsets[position] + self._lookup.row_nbytes - offsets[first]
                if 0 <= gap <= _GAP_BYTES and length <= self._staging.nbytes // _LANES:
                    continue
            start = int(offsets[first]) // EXTENT_ALIGNMENT * EXTENT_ALIGNMENT
            end = align_up(int(offsets[position - 1]) + self._lookup.row_nbytes, EXTENT_ALIGNMENT)
            yield _Span(start, end - start, first, position - 1)
            first = position

    def _read_lane(self, requests: list[tuple[memoryview, int]]) -> None:
        for view, offset in requests:
            self._storage.read_into(view, offset)

    def _read(
        self,
        batch: list[_Span],
        offsets: npt.NDArray[np.int64],
        found: npt.NDArray[np.uint8],
    ) -> None:
        starts = np.cumsum([0] + [span.nbytes for span in batch])
        views = [
            self._staging.view(int(start), span.nbytes)
            for start, span in zip(starts, batch, strict=False)
        ]
        requests = list(zip(views, (span.offset for span in batch), strict=True))
        lanes = [requests[lane::_LANES] for lane in range(min(_LANES, len(requests)))]
        list(self._pool.map(self._read_lane, lanes))
        self.read_bytes += int(starts[-1])
        for view, span in zip(views, batch, strict=True):
            data = np.frombuffer(view, np.uint8)
            for position in range(span.first, span.last + 1):
                begin = int(offsets[position]) - span.offset
                found[position] = data[begin : begin + self._lookup.row_nbytes]
