from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from swapnet.errors import StorageError
from swapnet.executor.swapping.arena import Arena
from swapnet.executor.swapping.storage import LoadMode, WeightFile

NBYTES = 5 * 4096


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "weights.bin"
    path.write_bytes(np.random.default_rng(0).bytes(NBYTES))
    return path


def refuse_direct(monkeypatch: pytest.MonkeyPatch) -> None:
    """As filesystems do that have no direct I/O."""
    real = os.open

    def open_(path: str, flags: int) -> int:
        if flags & os.O_DIRECT:
            raise OSError(errno.EINVAL, "Invalid argument")
        return real(path, flags)

    monkeypatch.setattr(os, "open", open_)


@pytest.mark.parametrize("mode", [mode for mode in LoadMode if mode is not LoadMode.DIRECT])
def test_reads_what_is_there(path: Path, mode: LoadMode) -> None:
    file = WeightFile(path, mode)
    arena = Arena(NBYTES)
    assert file.nbytes == NBYTES
    for offset, nbytes in ((0, 4096), (8192, 3 * 4096), (0, NBYTES)):
        view = arena.view(4096, nbytes)[: NBYTES - 4096]
        file.read_into(view, offset)
        assert view.tobytes() == path.read_bytes()[offset : offset + len(view)]
    file.close()
    file.close()


def test_falls_back_where_direct_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_direct(monkeypatch)
    file = WeightFile(path)
    assert file.mode is LoadMode.BUFFERED
    view = Arena(4096).view(0, 4096)
    file.read_into(view, 4096)
    assert view.tobytes() == path.read_bytes()[4096:8192]
    file.close()


def test_direct_is_never_another_way(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_direct(monkeypatch)
    with pytest.raises(StorageError, match="Invalid argument") as caught:
        WeightFile(path, LoadMode.DIRECT)
    assert "--load-mode auto" in caught.value.hint


@pytest.mark.parametrize("mode", [LoadMode.BUFFERED, LoadMode.MMAP])
def test_the_end_comes_too_early(path: Path, mode: LoadMode) -> None:
    file = WeightFile(path, mode)
    with pytest.raises(StorageError, match="too short") as caught:
        file.read_into(Arena(8192).view(0, 8192), NBYTES - 4096)
    assert "8192 bytes at 16384 were asked for, 4096 are there" in caught.value.why
    file.close()


@pytest.mark.parametrize("mode", LoadMode)
def test_no_file(tmp_path: Path, mode: LoadMode) -> None:
    with pytest.raises(StorageError, match="No such file"):
        WeightFile(tmp_path / "none", mode)


def test_an_empty_file_can_be_mapped(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    file = WeightFile(tmp_path / "empty", LoadMode.MMAP)
    file.read_into(memoryview(bytearray()), 0)
    file.close()


def test_a_system_error_says_where(path: Path) -> None:
    file = WeightFile(path, LoadMode.BUFFERED)
    file.close()
    with pytest.raises(StorageError, match="4 bytes at 8: Bad file descriptor"):
        file.read_into(memoryview(bytearray(4)), 8)


def test_modes_are_written_as_they_are_named() -> None:
    assert [str(mode) for mode in LoadMode] == ["auto", "direct", "buffered", "mmap"]
