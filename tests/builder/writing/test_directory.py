from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from swapnet.builder.writing.directory import staging_directory
from swapnet.errors import StorageError
from swapnet.manifest import CURVE, MANIFEST
from swapnet.ranges import RANGES


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """A folder inside one that does not exist yet."""
    return tmp_path / "engines" / "toy"


def write(target: Path, text: str) -> None:
    with staging_directory(target) as staging:
        assert staging.parent == target.parent
        (staging / MANIFEST).write_text(text)


def test_becomes_the_target(target: Path) -> None:
    write(target, "new")
    assert (target / MANIFEST).read_text() == "new"
    assert list(target.parent.iterdir()) == [target]
    assert target.stat().st_mode & 0o777 == 0o755


def test_an_empty_folder_is_filled(target: Path) -> None:
    target.mkdir(parents=True)
    write(target, "new")
    assert (target / MANIFEST).read_text() == "new"


def test_replaces_an_engine_whole(target: Path) -> None:
    write(target, "old")
    (target / "blocks").mkdir()
    (target / "profile.json").touch()
    (target / RANGES).touch()
    (target / CURVE).touch()
    (target / ".hidden").touch()
    write(target, "new")
    assert [path.name for path in target.iterdir()] == [MANIFEST]
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt])
def test_a_failure_leaves_the_old_engine(target: Path, kind: type[BaseException]) -> None:
    def fail() -> None:
        with staging_directory(target) as staging:
            (staging / MANIFEST).write_text("new")
            assert (target / MANIFEST).read_text() == "old"
            raise kind

    write(target, "old")
    with pytest.raises(kind):
        fail()
    assert (target / MANIFEST).read_text() == "old"
    assert list(target.parent.iterdir()) == [target]


def test_an_old_engine_that_can_not_go_back_is_kept(
    target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.rename

    def rename(source: Path, destination: Path) -> None:
        if destination == target:
            raise OSError(5, "Input/output error")
        real(source, destination)

    write(target, "old")
    monkeypatch.setattr(os, "rename", rename)
    with pytest.raises(StorageError, match="can't be written"):
        write(target, "new")
    (kept,) = target.parent.rglob(MANIFEST)
    assert kept.read_text() == "old"


def test_what_is_no_engine_is_left_alone(target: Path) -> None:
    target.mkdir(parents=True)
    (target / "thesis.txt").touch()
    with pytest.raises(StorageError, match="is in the way"):
        write(target, "new")
    assert [path.name for path in target.iterdir()] == ["thesis.txt"]
    with pytest.raises(StorageError, match="is in the way"):
        write(target / "thesis.txt", "new")


@pytest.mark.parametrize("kept", ["index.html", ".git"])
def test_another_folder_with_a_manifest_is_left_alone(target: Path, kept: str) -> None:
    (target / kept).mkdir(parents=True)
    (target / MANIFEST).write_text("theirs")
    with pytest.raises(StorageError, match="is in the way") as caught:
        write(target, "new")
    assert kept in caught.value.why
    assert {path.name for path in target.iterdir()} == {kept, MANIFEST}


def test_a_working_folder_that_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    gone = tmp_path / "gone"
    gone.mkdir()
    os.chdir(gone)
    gone.rmdir()
    with pytest.raises(StorageError, match="can't be written"):
        write(Path("engines") / "toy", "new")


def test_a_file_as_parent_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="can't be written") as caught:
        write(tmp_path / "file" / "toy", "new")
    assert str(tmp_path / "file") in caught.value.why
    assert caught.value.hint == "choose another folder with -o"
    with pytest.raises(StorageError, match="File name too long") as caught:
        write(tmp_path / ("x" * 300), "new")
    assert "free" not in f"{caught.value.why}{caught.value.hint}"


def test_an_error_while_writing_says_how_much_is_free(target: Path) -> None:
    def fill() -> None:
        with staging_directory(target):
            raise OSError(28, "No space left on device")

    with pytest.raises(StorageError, match=r"No space left on device; [0-9]+ bytes are free"):
        fill()
    assert not list(target.parent.iterdir())


@pytest.mark.parametrize(
    ("number", "file", "message"),
    [
        (errno.EFBIG, None, "can't be written"),
        (errno.ENOSPC, ".toy.work.1/types.onnx", "can't be written"),
        (errno.EACCES, "model.onnx", "failed"),
        (errno.ENOENT, None, "failed"),
    ],
)
def test_an_error_of_another_kind_is_told_as_it_is(
    target: Path, number: int, file: str | None, message: str
) -> None:
    def fail() -> None:
        with staging_directory(target):
            path = target.parent / file if file else None
            raise OSError(number, os.strerror(number), path)

    with pytest.raises(StorageError, match=message) as caught:
        fail()
    assert os.strerror(number) in caught.value.why
    assert ("free some space" in caught.value.hint) == (message == "can't be written")


def test_an_engine_that_a_killed_build_moved_away_comes_back(target: Path) -> None:
    write(target, "old")
    retired = target.parent / ".toy.old.12345678.swapnet-tmp"
    retired.mkdir()
    target.rename(retired / "toy")
    with staging_directory(target) as staging:
        assert (target / MANIFEST).read_text() == "old"
        (staging / MANIFEST).write_text("new")
    assert (target / MANIFEST).read_text() == "new"
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize("kind", [OSError(5, "Input/output error"), KeyboardInterrupt()])
def test_a_failing_rename_puts_the_old_engine_back(
    target: Path, monkeypatch: pytest.MonkeyPatch, kind: BaseException
) -> None:
    real = os.rename

    def rename(source: Path, destination: Path) -> None:
        if destination == target and (source / MANIFEST).read_text() == "new":
            raise kind
        real(source, destination)

    write(target, "old")
    monkeypatch.setattr(os, "rename", rename)
    with pytest.raises((StorageError, KeyboardInterrupt)):
        write(target, "new")
    assert (target / MANIFEST).read_text() == "old"
    assert list(target.parent.iterdir()) == [target]
