from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from swapnet.builder.importing.graph import Constant
from swapnet.builder.writing.weights import WeightWriter


def constant(name: str, nbytes: int, byte: int) -> Constant:
    return Constant(name, "uint8", (nbytes,), np.full(nbytes, byte, np.uint8))


def test_extents_and_tensors_are_aligned(tmp_path: Path) -> None:
    path = tmp_path / "weights.bin"
    with WeightWriter(path) as writer:
        first = writer.append([constant("a", 300, 1), constant("b", 5, 2)])
        empty = writer.append([])
        second = writer.append([constant("c", 4097, 3)])
    data = path.read_bytes()
    assert writer.nbytes == len(data) == 4096 * 3
    assert [(w.name, w.offset) for w in first.weights] == [("a", 0), ("b", 512)]
    assert (empty.extent.offset, empty.extent.nbytes) == (4096, 0)
    assert second.weights[0].offset == second.extent.offset == 4096
    for stored in (first, empty, second):
        extent = data[stored.extent.offset : stored.extent.end]
        assert hashlib.sha256(extent).hexdigest() == stored.checksum
    assert data[512:517] == b"\x02" * 5
    assert data[4096:8193] == b"\x03" * 4097


def test_a_file_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "weights.bin"
    path.write_bytes(b"old")
    with pytest.raises(FileExistsError):
        WeightWriter(path)
    assert path.read_bytes() == b"old"
