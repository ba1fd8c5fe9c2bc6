"""Which weights are stored in half the bytes, and where."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from swapnet.builder.importing.graph import Constant
from swapnet.builder.writing.codecs import PLAIN, Coded, choose_codecs
from swapnet.builder.writing.weights import WeightWriter
from swapnet.executor.planning.plan import reads_of
from swapnet.executor.swapping.arena import Arena
from swapnet.executor.swapping.loading import DirectLoader
from swapnet.executor.swapping.storage import LoadMode, WeightFile

LARGE = 1 << 15
FITS_NOT = pytest.raises(ValueError, match="does not fit planes")


def constant(name: str, values: NDArray[np.float32]) -> Constant:
    return Constant(name, "float32", values.shape, values.view(np.uint8).reshape(-1))


def halves(count: int, seed: int = 0) -> NDArray[np.float32]:
    random = np.random.default_rng(seed).standard_normal(count)
    return random.astype(np.float16).astype(np.float32)


def brains(count: int) -> NDArray[np.float32]:
    values = np.random.default_rng(1).standard_normal(count).astype(np.float32) * 1e6
    return (values.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)


def fine(count: int) -> NDArray[np.float32]:
    return np.random.default_rng(2).standard_normal(count).astype(np.float32)


LATE = np.concatenate([halves(LARGE), np.array([0.1], np.float32)])
CONSTANTS = {
    "half": constant("half", halves(LARGE)),
    "brain": constant("brain", brains(LARGE)),
    "more-brain": constant("more-brain", brains(2 * LARGE)),
    "both": constant("both", np.ones(LARGE, np.float32)),
    "fine": constant("fine", fine(LARGE)),
    "late": constant("late", LATE),
    "small": constant("small", halves(16)),
    "integers": Constant("integers", "int32", (LARGE,), np.zeros(4 * LARGE, np.uint8)),
}


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("half", "fine", "small"), Coded("float16", frozenset({"half", "small"}))),
        (("half", "more-brain", "both"), Coded("planes", frozenset({"more-brain", "both"}))),
        (
            ("half", "brain", "both", "small"),
            Coded("float16", frozenset({"half", "both", "small"})),
        ),
        (("fine", "late", "small", "integers"), PLAIN),
        (("read",), PLAIN),
        ((), PLAIN),
    ],
)
def test_an_extent_has_the_codec_that_saves_most(names: tuple[str, ...], expected: Coded) -> None:
    constants = {**CONSTANTS, "read": constant("read", halves(LARGE))}
    assert choose_codecs(constants, [names], {"read"}) == [expected]


def test_slices_have_the_codec_of_the_whole() -> None:
    whole = constant("whole", halves(4 * LARGE).reshape(4, LARGE))
    parts = {f"{i}": whole.slice(f"{i}", 0, i, i + 1) for i in range(4)}
    chosen = choose_codecs(parts, [["0", "1"], ["2", "3"]], ())
    assert chosen == [Coded("float16", frozenset("01")), Coded("float16", frozenset("23"))]


@pytest.mark.parametrize("most_bytes", [8192, 100_000, 1 << 20])
@pytest.mark.parametrize("mode", [LoadMode.AUTO, LoadMode.BUFFERED])
def test_any_request_brings_its_values(tmp_path: Path, mode: LoadMode, most_bytes: int) -> None:
    path = tmp_path / "weights.bin"
    named = [CONSTANTS[name] for name in ("fine", "half", "small")]
    with WeightWriter(path, coded=True) as writer:
        first = writer.append(named[:1])
        second = writer.append(named, coded=Coded("float16", frozenset({"half", "small"})))
    data = path.read_bytes()
    assert len(data) == second.extent.end == writer.nbytes
    extent = second.extent
    assert first.extent.nbytes % 8192 == extent.nbytes % 8192 == extent.plain_nbytes % 8192 == 0
    assert hashlib.sha256(data[extent.offset : extent.end]).hexdigest() == second.checksum
    arena, storage = Arena(extent.nbytes + 4096), WeightFile(path, mode)
    loader = DirectLoader(storage, arena)
    read_bytes = 0
    for read in reads_of(0, extent, 4096, (0, extent.nbytes), most_bytes, 0):
        arena.fill(read.arena_offset, read.nbytes, 0xFF)
        loader.load(read, None)
        read_bytes += read.stored_bytes
    assert read_bytes == extent.file_nbytes
    for weight, source in zip(second.weights, named, strict=True):
        place = arena.view(4096 + weight.offset - extent.offset, weight.nbytes)
        np.testing.assert_array_equal(np.frombuffer(place, np.uint8), source.data)
    storage.close()


def test_values_that_do_not_fit_are_never_written(tmp_path: Path) -> None:
    with WeightWriter(tmp_path / "weights.bin", coded=True) as writer, FITS_NOT:
        writer.append([CONSTANTS["fine"]], coded=Coded("planes", frozenset({"fine"})))
