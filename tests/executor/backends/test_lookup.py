from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from swapnet.errors import InputError, StorageError
from swapnet.executor.backends import lookup
from swapnet.executor.backends.base import Array
from swapnet.executor.backends.lookup import RowReader
from swapnet.executor.swapping.storage import LoadMode, WeightFile
from swapnet.manifest import Block, Extent, Lookup, Rows

ROW = 300
RUNS = ((8192, 1000), (0, 20), (400_128, 500))
"""Parts of the table in order: where they begin and how many rows they have."""


def lookup_block(lookup: Lookup) -> Block:
    return Block(
        index=3,
        kind="lookup",
        operators=("Gather",),
        inputs=("ids",),
        outputs=("rows",),
        extent=Extent(0, 0),
        checksum="",
        lookup=lookup,
    )


def rows_of(reader: RowReader, indices: Array) -> Array:
    rows = reader.new_rows(indices.shape)
    reader.read(indices, rows)
    return rows


@pytest.fixture(scope="module")
def table() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 1 << 30, (1520, ROW // 4), np.int32)


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory, table: np.ndarray) -> Iterator[RowReader]:
    path: Path = tmp_path_factory.mktemp("table") / "weights.bin"
    data = bytearray(552_960)
    first = 0
    for offset, count in RUNS:
        data[offset : offset + count * ROW] = table[first : first + count].tobytes()
        first += count
    path.write_bytes(data)
    lookup = Lookup("int32", (3, 25), ROW, tuple(Rows(count, offset) for offset, count in RUNS))
    file = WeightFile(path)
    reader = RowReader(lookup_block(lookup), file)
    yield reader
    reader.close()
    file.close()


@settings(
    max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(st.integers(-1520, 1519), max_size=60))
def test_rows_are_those_of_the_table(
    reader: RowReader, table: np.ndarray, indices: list[int]
) -> None:
    rows = rows_of(reader, np.array(indices, np.int64))
    assert rows.dtype == np.int32
    np.testing.assert_array_equal(rows, table[indices].reshape(-1, 3, 25))


@pytest.mark.parametrize("shape", [(), (1,), (2, 3), (0, 4)])
def test_shapes_are_kept(reader: RowReader, table: np.ndarray, shape: tuple[int, ...]) -> None:
    indices = np.full(shape, 7, np.int32)
    rows = rows_of(reader, indices)
    np.testing.assert_array_equal(rows, table[indices].reshape(*shape, 3, 25))


def test_the_whole_table_at_once(reader: RowReader, table: np.ndarray) -> None:
    indices = np.random.default_rng(1).permutation(1520)
    np.testing.assert_array_equal(rows_of(reader, indices).reshape(1520, -1), table[indices])


def test_more_rows_than_fit_in_the_staging_memory(tmp_path: Path) -> None:
    table = np.random.default_rng(0).integers(0, 256, (150, 40_000), np.uint8)
    (tmp_path / "weights.bin").write_bytes(table.tobytes() + bytes(4096))
    file = WeightFile(tmp_path / "weights.bin", LoadMode.BUFFERED)
    lookup = Lookup("uint8", (40_000,), 40_000, (Rows(150, 0),))
    reader = RowReader(lookup_block(lookup), file)
    for indices in (np.arange(150), np.arange(149, 0, -2)):
        np.testing.assert_array_equal(rows_of(reader, indices), table[indices])
    reader.close()
    file.close()


def test_neighbours_are_read_in_one_request(reader: RowReader) -> None:
    reader._kept.clear()
    before = reader.read_bytes
    rows_of(reader, np.array([3, 5, 4, 5, 3]))
    assert reader.read_bytes - before == 4096
    rows_of(reader, np.array([3, 900]))
    assert reader.read_bytes - before == 2 * 4096


def test_what_was_read_last_is_not_read_again(
    reader: RowReader, table: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lookup, "_KEPT", 3)

    def pages_read(*rows: int) -> int:
        before = reader.read_bytes
        for row in rows:
            np.testing.assert_array_equal(rows_of(reader, np.array([row]))[0].ravel(), table[row])
        return (reader.read_bytes - before) // 4096

    assert pages_read(400, 420, 440) == 3
    assert pages_read(401, 440, 420, 400) == 0
    assert pages_read(460) == 1  # in place of the page of row 440
    assert pages_read(420, 400, 460) == 0
    assert pages_read(440) == 1
    reader.read(np.arange(1520), reader.new_rows((1520,)))
    assert pages_read(440) == 0


@pytest.mark.parametrize("index", [1520, -1521, 1 << 40])
def test_indices_outside_are_refused(reader: RowReader, index: int) -> None:
    with pytest.raises(InputError, match=f"index {index} in 'ids' is outside") as caught:
        rows_of(reader, np.array([0, index]))
    assert "1520 rows" in caught.value.why
    assert "from -1520 to 1519" in caught.value.hint


def test_a_failed_request_names_the_block_and_leaves_the_next_right(
    reader: RowReader, table: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    healthy = WeightFile.read_into
    broken = threading.Event()
    broken.set()

    def read_into(file: WeightFile, destination: memoryview, offset: int) -> None:
        if broken.is_set() and offset == 8192:
            broken.clear()
            raise StorageError("cable", why="unplugged")
        healthy(file, destination, offset)

    monkeypatch.setattr(WeightFile, "read_into", read_into)
    indices = np.arange(0, 1520, 97)
    with pytest.raises(StorageError, match="block 3 could not be read"):
        rows_of(reader, indices)
    np.testing.assert_array_equal(rows_of(reader, indices).reshape(-1, 75), table[indices])
