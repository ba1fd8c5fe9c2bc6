from __future__ import annotations

from pathlib import Path

import pytest

from swapnet import files
from swapnet.errors import StorageError
from swapnet.models import cache


def write(folder: Path) -> None:
    (folder / "file").write_text("whole")


def test_root_is_chosen_by_the_environment(cache_folder: Path) -> None:
    assert files.cache_folder() == cache_folder


def test_root_is_in_the_home_folder_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SWAPNET_CACHE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert files.cache_folder() == tmp_path / ".cache" / "swapnet"


def test_creates_once(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "folder"
    assert cache.create(folder, write) == folder

    def never(_: Path) -> None:
        pytest.fail("filled twice")

    assert cache.create(folder, never) == folder
    assert (folder / "file").read_text() == "whole"


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        write(folder)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache.create(tmp_path / "folder", fail)
    assert not list(tmp_path.iterdir())


def test_a_lost_race_keeps_the_winner(tmp_path: Path) -> None:
    folder = tmp_path / "folder"

    def slowly(partial: Path) -> None:
        cache.create(folder, write)
        (partial / "file").write_text("late")

    cache.create(folder, slowly)
    assert (folder / "file").read_text() == "whole"
    assert list(tmp_path.iterdir()) == [folder]


def test_says_where_it_cannot_write(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="SWAPNET_CACHE"):
        cache.create(tmp_path / "file" / "folder", write)
    with pytest.raises(StorageError, match="can't be written"):
        cache.create(tmp_path / "file", write)
