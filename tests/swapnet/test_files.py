"""Files that are whole or not there, and folders to work in that go with their process."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from swapnet.errors import StorageError
from swapnet.files import (
    check_writable,
    folder_bytes,
    is_in_page_cache,
    replacing,
    working_folder,
)

_HOLD = """
import sys
from pathlib import Path
from swapnet.files import working_folder
with working_folder(".e.", Path(sys.argv[1])) as folder:
    (folder / "part").write_text("written")
    print(folder.name, flush=True)
    sys.stdin.read()
"""


def start(place: Path) -> tuple[subprocess.Popen[str], Path]:
    """A process that holds a folder until its input ends; the folder."""
    process = subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(place)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    return process, place / process.stdout.readline().strip()


def test_a_folder_is_removed_at_the_end(tmp_path: Path) -> None:
    def fail() -> None:
        with working_folder(".e.", tmp_path) as folder:
            (folder / "part").touch()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_killed_process_leaves_a_folder_that_the_next_one_removes(tmp_path: Path) -> None:
    process, left = start(tmp_path)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert (left / "part").exists()
    with working_folder(".other.", tmp_path):
        assert left.exists()
    with working_folder(".e.", tmp_path) as folder:
        assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.slow
def test_the_folder_of_a_process_that_lives_stays(tmp_path: Path) -> None:
    process, held = start(tmp_path)
    with working_folder(".e.", tmp_path):
        assert (held / "part").exists()
    process.communicate()
    assert process.returncode == 0
    assert not list(tmp_path.iterdir())


def test_two_folders_of_one_process_live_side_by_side(tmp_path: Path) -> None:
    with working_folder(".e.", tmp_path) as first, working_folder(".e.", tmp_path) as second:
        assert first.exists()
        assert second.exists()


@pytest.mark.parametrize("name", [".e.backup12", ".e.12345678.swapnet-tmp.old", ".e..swapnet-tmp"])
def test_folders_that_are_not_ours_stay(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    with working_folder(".e.", tmp_path):
        pass
    assert os.listdir(tmp_path) == [name]


def test_a_link_in_place_of_a_folder_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").touch()
    (tmp_path / ".e.12345678.swapnet-tmp").symlink_to(tmp_path / "mine")
    with working_folder(".e.", tmp_path):
        pass
    assert (tmp_path / "mine" / "thesis.txt").exists()


def write(path: Path, text: str = "new") -> None:
    check_writable(path)
    with replacing(path) as temporary:
        temporary.write_text(text)


def test_a_regular_file_is_replaced_whole_and_keeps_its_permissions(tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    path.write_text("old")
    path.chmod(0o600)
    with path.open() as reader:
        write(path)
        assert reader.read() == "old"
    assert path.read_text() == "new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["out.json"]


def test_a_file_that_was_moved_in_gets_the_permissions_of_the_replaced_one(tmp_path: Path) -> None:
    path, made = tmp_path / "out.onnx", tmp_path / "made"
    path.write_text("old")
    path.chmod(0o400)
    made.write_text("new")
    made.chmod(0o644)
    with replacing(path) as temporary:
        made.replace(temporary)
    assert path.read_text() == "new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o400


def test_a_failed_block_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    path.write_text("old")

    def fail() -> None:
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["out.json"]


@pytest.mark.parametrize("is_there", [True, False])
def test_a_symbolic_link_stays_and_its_target_is_replaced(tmp_path: Path, is_there: bool) -> None:
    target, link, second = tmp_path / "disk" / "real", tmp_path / "link", tmp_path / "second"
    target.parent.mkdir()
    if is_there:
        target.write_text("old")
    link.symlink_to("disk/real")
    second.symlink_to("link")
    write(second)
    assert second.is_symlink()
    assert link.is_symlink()
    assert target.read_text() == "new"
    assert not target.is_symlink()
    assert os.listdir(target.parent) == ["real"]


def test_a_circle_of_links_and_a_folder_are_refused(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(link)
    for path in (link, tmp_path):
        with pytest.raises(StorageError, match="can't be written"):
            check_writable(path)
        with pytest.raises(StorageError, match="can't be written"), replacing(path):
            pass
    assert link.is_symlink()


@pytest.mark.parametrize("through_link", [False, True])
def test_a_fifo_is_written_to(tmp_path: Path, through_link: bool) -> None:
    fifo, link = tmp_path / "fifo", tmp_path / "link"
    os.mkfifo(fifo)
    link.symlink_to(fifo)
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append(fifo.read_text()), daemon=True)
    reader.start()
    write(link if through_link else fifo)
    reader.join(10)
    assert read == ["new"]
    assert stat.S_ISFIFO(fifo.stat().st_mode)
    assert link.is_symlink()


def test_a_device_is_written_to(tmp_path: Path) -> None:
    link = tmp_path / "null"
    link.symlink_to("/dev/null")
    write(link)
    assert link.is_symlink()
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


def test_a_full_device_is_one_error(tmp_path: Path) -> None:
    link = tmp_path / "full"
    link.symlink_to("/dev/full")
    with pytest.raises(StorageError, match=f"{link} can't be written") as caught:
        write(link)
    assert caught.value.why == "No space left on device"


def test_a_device_node_of_our_own_survives(tmp_path: Path) -> None:
    node = tmp_path / "null"
    try:
        os.mknod(node, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
        node.write_text("")
    except PermissionError:
        pytest.skip("device nodes can't be made or used here")
    write(node)
    assert stat.S_ISCHR(node.stat().st_mode)
    assert os.listdir(tmp_path) == ["null"]


def test_standard_output_keeps_what_was_written_to_it(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    sys.stdout.write("before\n")
    link = tmp_path / "link"
    link.symlink_to("/dev/stdout")
    write(link, "new\n")
    sys.stdout.write("after\n")
    assert capfd.readouterr().out == "before\nnew\nafter\n"


def test_a_folder_has_the_bytes_of_all_its_files(tmp_path: Path) -> None:
    (tmp_path / "inside").mkdir()
    (tmp_path / "inside" / "one").write_bytes(bytes(10))
    (tmp_path / "two").write_bytes(bytes(5))
    assert folder_bytes(tmp_path) == 15


@pytest.mark.parametrize(("error", "expected"), [(BlockingIOError, False), (OSError, True)])
def test_the_page_cache_is_asked_for_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[OSError], expected: bool
) -> None:
    (tmp_path / "file").write_bytes(bytes(1 << 16))
    assert is_in_page_cache(tmp_path / "file")

    def refuse(*_: object) -> int:
        raise error

    monkeypatch.setattr(os, "preadv", refuse)
    assert is_in_page_cache(tmp_path / "file") is expected
