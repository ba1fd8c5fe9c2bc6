"""Folders to work in: gone with their process, whatever ended it, and never before."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from swapnet.files import working_folder

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
