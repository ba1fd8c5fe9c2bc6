"""Read the wanted rows of a table in storage, neighbours in one request."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, wait
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from swapnet.errors import InputError, StorageError
from swapnet.executor.backends.base import Array, Backend, ValueStore
from swapnet.executor.planning.usage import LOOKUP_BYTES
from swapnet.executor.swapping.arena import Arena
from swapnet.executor.swapping.loading import Reader, unreadable
from swapnet.executor.swapping.patience import LAST_LOOK_S, Patience, StalledError
from swapnet.executor.swapping.readers import Workers
from swapnet.manifest import EXTENT_ALIGNMENT, Block
from swapnet.tensors import numpy_dtype
from swapnet.units import align_up

__all__ = ["LookupSegment", "RowReader"]

_LANES = 12
"""Number of small requests in flight: they wait for the large ones of the ring."""

_KEPT, _KEPT_BYTES = 128, 8 << 10
"""Number and largest size of the pieces of the file that are kept, in memory of the staging's."""

_GAP_BYTES = 32 << 10
"""Largest gap between rows that are read in one request."""


@dataclass(frozen=True)
class _Span:
    """Aligned bytes of the file that hold some of the wanted rows."""

    offset: int
    nbytes: int
    first: int
    last: int
    """First and last position among the sorted wanted rows, both included."""


class RowReader:
    """Reader of the rows of one table; ``patience`` limits the time that storage may take.

    It keeps the small pieces of the file that were used last: words of a text return, and a page
    has rows beside the wanted one.
    """

    def __init__(self, block: Block, storage: Reader, patience: Patience | None = None) -> None:
        assert block.lookup is not None
        self._block = block
        self._lookup = block.lookup
        self._storage = storage
        self._first_rows = np.cumsum([0] + [run.count for run in self._lookup.rows])
        self._offsets = np.array([run.offset for run in self._lookup.rows], np.int64)
        self._patience = patience or Patience()
        self._late: tuple[Future[None], StalledError] | None = None
        self._kept: dict[tuple[int, int], bytes] = {}
        """Pieces by offset and size, the latest last."""
        self._begin()
        self.read_bytes = 0
        """Bytes read since the reader was made."""

    @property
    def row_shape(self) -> tuple[int, ...]:
        """Shape of one row."""
        return self._lookup.row_shape

    def new_rows(self, shape: tuple[int, ...]) -> Array:
        """An uninitialised array for rows; ``shape`` is that of the indices."""
        return np.empty((*shape, *self._lookup.row_shape), numpy_dtype(self._lookup.dtype))

    def read(self, indices: Array, destination: Array) -> None:
        """Read the rows at ``indices``, straight from the staging memory to their places.

        Parameters
        ----------
        indices
            Integers of any shape; negative ones count from the end.
        destination
            C-contiguous, shape ``indices.shape + row_shape``; bfloat16 as its bits in uint16.

        Raises
        ------
        InputError
            An index is outside the table.
        StorageError
            Rows can't be read, or do not come in time.
        """
        if self._late is not None and not self._late[0].done():
            raise self._late[1]
        wanted = self._in_table(indices.reshape(-1).astype(np.int64))
        order = np.argsort(wanted, kind="stable")
        runs = np.searchsorted(self._first_rows, wanted[order], side="right") - 1
        row_nbytes = self._lookup.row_nbytes
        offsets = self._offsets[runs] + (wanted[order] - self._first_rows[runs]) * row_nbytes
        rows = destination.reshape(-1).view(np.uint8).reshape(len(wanted), row_nbytes)
        for batch in self._batches(offsets):
            for piece, span in self._staged(batch):
                data = np.frombuffer(piece, np.uint8)
                for position in range(span.first, span.last + 1):
                    begin = int(offsets[position]) - span.offset
                    rows[order[position]] = data[begin : begin + row_nbytes]

    def close(self) -> None:
        """Stop the reading threads. Safe to call twice."""
        self._workers.close()

    def _begin(self) -> None:
        """Take threads and memory that no late request has."""
        self._staging = Arena(LOOKUP_BYTES - _KEPT * _KEPT_BYTES)
        self._workers = Workers(_LANES, "swapnet-rows")

    def _in_table(self, indices: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        count = self._lookup.count
        outside = (indices < -count) | (indices >= count)
        if outside.any():
            raise InputError(
                f"index {indices[outside][0]} in {self._block.inputs[0]!r} is outside its table",
                why=f"the table has {count} rows",
                hint=f"give indices from {-count} to {count - 1}",
            )
        return np.where(indices < 0, indices + count, indices)

    def _batches(self, offsets: npt.NDArray[np.int64]) -> Iterator[list[_Span]]:
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
        row_nbytes = self._lookup.row_nbytes
        for position in range(1, len(offsets) + 1):
            if position < len(offsets):
                gap = offsets[position] - offsets[position - 1] - row_nbytes
                length = offsets[position] + row_nbytes - offsets[first]
                if -row_nbytes <= gap <= _GAP_BYTES and length <= self._staging.nbytes // _LANES:
                    continue
            start = int(offsets[first]) // EXTENT_ALIGNMENT * EXTENT_ALIGNMENT
            end = align_up(int(offsets[position - 1]) + row_nbytes, EXTENT_ALIGNMENT)
            yield _Span(start, end - start, first, position - 1)
            first = position

    def _staged(self, batch: list[_Span]) -> Iterator[tuple[memoryview | bytes, _Span]]:
        found = [self._kept.pop((span.offset, span.nbytes), None) for span in batch]
        missing = [span for span, piece in zip(batch, found, strict=True) if piece is None]
        views = iter(self._read(missing) if missing else ())
        for span, kept in zip(batch, found, strict=True):
            piece = kept or next(views)
            yield piece, span
            if span.nbytes <= _KEPT_BYTES:
                self._kept[span.offset, span.nbytes] = bytes(piece)
        while len(self._kept) > _KEPT:
            del self._kept[next(iter(self._kept))]

    def _read(self, batch: list[_Span]) -> list[memoryview]:
        starts = np.cumsum([0] + [span.nbytes for span in batch])
        staged = [
            (self._staging.view(int(start), span.nbytes), span)
            for start, span in zip(starts, batch, strict=False)
        ]
        lanes = [staged[lane::_LANES] for lane in range(min(_LANES, len(staged)))]
        reading = [self._workers.submit(partial(self._read_lane, lane)) for lane in lanes]
        # All of them end before an error is raised: the staging memory is used again.
        self._await(reading, batch[0])
        for future in reading:
            future.result()
        self.read_bytes += int(starts[-1])
        return [view for view, _ in staged]

    def _await(self, reading: list[Future[None]], first: _Span) -> None:
        since_s = time.perf_counter()
        while wait(reading, self._patience.look_s(since_s)).not_done:
            if self._patience.left_s(since_s) > 0:
                continue
            if late := wait(reading, LAST_LOOK_S).not_done:
                name = f"block {self._block.index}"
                error = self._patience.error(name, first.nbytes, first.offset, since_s)
                self._late = (late.pop(), error)
                self._begin()
                raise error

    def _read_lane(self, lane: list[tuple[memoryview, _Span]]) -> None:
        for view, span in lane:
            try:
                self._storage.read_into(view, span.offset)
            except StorageError as error:
                raise unreadable(self._block.index, error) from error


class LookupSegment:
    """The segment of a lookup block; the same with every backend."""

    def __init__(
        self,
        block: Block,
        storage: Reader,
        values: ValueStore,
        backend: Backend,
        patience: Patience | None = None,
    ) -> None:
        self._indices, self._output = block.inputs[0], block.outputs[0]
        self._reader = RowReader(block, storage, patience)
        self._values = values
        self._backend = backend

    @property
    def read_bytes(self) -> int:
        """Bytes read since the segment was made."""
        return self._reader.read_bytes

    def run(self, given: dict[str, Any], results: Mapping[str, Array]) -> None:
        indices = self._find(given, results)
        if self._output in self._values:
            shape = (*indices.shape, *self._reader.row_shape)
            with self._values.writing(self._output, shape) as destination:
                self._reader.read(indices, destination)
        elif self._output in results:
            self._reader.read(indices, results[self._output])
        else:
            given[self._output] = self._reader.new_rows(indices.shape)
            self._reader.read(indices, given[self._output])

    def close(self) -> None:
        """Stop the reading threads. Safe to call twice."""
        self._reader.close()

    def _find(self, given: dict[str, Any], results: Mapping[str, Array]) -> Array:
        if self._indices in results:
            return results[self._indices]
        if self._indices in given:
            return self._backend.array(given[self._indices])
        return self._values.array(self._indices)
