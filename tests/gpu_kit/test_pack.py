"""Packing, unpacking, and a run of the packed kit from an empty folder."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.gpu_kit import pack as packing
from tests.gpu_kit.pack import Part, main, pack, split, trips_of
from tests.gpu_kit.unpack import unpack


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A repository of two files and a link, packed in many parts."""

    def copy(site: Path) -> None:
        (site / "one").mkdir()
        (site / "one" / "file").write_bytes(os.urandom(500))
        (site / "link").symlink_to("one")

    monkeypatch.setattr(packing, "_copy_code", copy)
    monkeypatch.setattr(packing, "PART_BYTES", 200)


@pytest.mark.usefixtures("small")
def test_a_group_is_there_when_all_its_parts_are(
    kit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pack(kit, ["code"])
    home = tmp_path / "home"
    parts = sorted((kit / "trip-a").iterdir())
    assert len(parts) > 2
    kept = {part.name: part.read_bytes() for part in parts}
    for part in parts[1:]:
        part.unlink()
    assert unpack(kit, home) == []
    assert "not here yet" in capsys.readouterr().err
    parts[0].unlink()
    for part in parts[1:]:
        part.write_bytes(kept[part.name])
    assert unpack(kit, home) == ["code"]
    assert (home / "site" / "code" / "link" / "file").read_bytes()
    (home / "site" / "code" / "seen").touch()
    assert unpack(kit, home) == ["code"]
    assert (home / "site" / "code" / "seen").exists()


@pytest.mark.usefixtures("small")
def test_a_damaged_part_is_refused(kit: Path, tmp_path: Path) -> None:
    pack(kit, ["code"])
    part = next((kit / "trip-a").iterdir())
    part.write_bytes(b"?" + part.read_bytes()[1:])
    with pytest.raises(ValueError, match="damaged"):
        unpack(kit, tmp_path)


def test_models_go_with_the_last_packages_of_part_b() -> None:
    part = Part("x", b"")
    trips = trips_of({"code": [part], "data": [part], "ort": [part, part], "rtx": [part, part]})
    assert {trip: len(parts) for trip, parts in trips.items()} == {
        **{"trip-a": 1, "trip-b1": 1, "trip-b2": 2},
        **{"trip-c1": 1, "trip-c2": 1},
    }
    assert sum(len(part.data) for part in split("ort", bytes(packing.PART_BYTES + 1))) > 52 << 20


def wheel(path: Path, *names: str) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, "")
    return path


@pytest.fixture
def pip(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What is asked of pip, which has one wheel and makes none."""
    asked: list[list[str]] = []

    def run(command: Sequence[str], **_: Any) -> Any:
        asked.append(list(command))
        if "download" not in command:
            return SimpleNamespace(returncode=1, stderr="no compiler")
        folder = Path(command[command.index("-d") + 1])
        wheel(folder / "a.whl", "a/__init__.py", "a/tests/test.py", "onnxruntime/tools/x.py")
        return SimpleNamespace(returncode=0, stderr="")

    monkeypatch.setattr(packing, "subprocess", SimpleNamespace(run=run))
    return asked


@pytest.mark.usefixtures("pip")
def test_a_kit_without_pycuda_says_so(kit: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--out", str(kit), "--groups", "core"]) == 0
    assert "Not packed: pycuda" in capsys.readouterr().out


@pytest.mark.usefixtures("pip")
def test_pycuda_is_made_where_it_can_be(kit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "sys", SimpleNamespace(version_info=(3, 12), executable="py"))
    monkeypatch.setattr("shutil.which", lambda _: "nvcc")
    assert pack(kit, ["core"])


@pytest.mark.usefixtures("pip")
def test_a_wheel_of_pycuda_is_taken(kit: Path, tmp_path: Path) -> None:
    wheel(tmp_path / "pycuda-1-cp312-cp312-linux.whl", "pycuda/__init__.py")
    assert pack(kit, ["core"], tmp_path) == []
    unpack(kit, tmp_path)
    found = {path.name for path in (tmp_path / "site" / "core").iterdir()}
    assert found == {"a", "pycuda"}
    with pytest.raises(SystemExit, match="no wheel of pycuda"):
        pack(kit, ["core"], tmp_path / "nothing.whl")


def test_large_groups_are_packed_once(kit: Path, pip: list[list[str]], tmp_path: Path) -> None:
    for _ in range(2):
        pack(kit, ["rtx"])
    assert len(pip) == 1
    unpack(kit, tmp_path)
    assert (tmp_path / "site" / "rtx" / "tensorrt_rtx" / "__init__.py").exists()


def test_a_package_that_is_not_found_is_named(kit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> Any:
        return SimpleNamespace(returncode=1, stderr="ERROR: nothing matches\n")

    monkeypatch.setattr(packing, "subprocess", SimpleNamespace(run=refuse))
    with pytest.raises(SystemExit, match="core can't be downloaded: ERROR: nothing matches"):
        pack(kit, ["core"])


def test_data_has_the_form_of_the_cache(
    kit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"

    def member(one: Any, path: str) -> Path:
        file: Path = cache / "wheels" / one.project / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"data")
        return file

    monkeypatch.setenv("SWAPNET_CACHE", str(cache))
    monkeypatch.setattr("swapnet.models.fetch.member", member)
    pack(kit, ["data"])
    unpack(kit, tmp_path)
    projects = {path.name for path in (tmp_path / "site" / "data" / "wheels").iterdir()}
    assert projects == {"scikit-image", "rapidocr-onnxruntime"}


@pytest.mark.slow
def test_the_packed_kit_runs_from_an_empty_folder(kit: Path, tmp_path: Path) -> None:
    """Shortened: with packages of this environment, and two checks."""
    pack(kit, ["code"])
    home, out = tmp_path / "home", tmp_path / "out"
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHON": sys.executable,
        "KIT_HOME": str(home),
        "OUT": str(out),
    }
    command = ["sh", str(kit / "run.sh"), "--simulated", "--only", "kernel,equality"]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("here: code\n")
    answers = json.loads((out / "results-a.json").read_text())["answers"]
    assert {one["name"]: one["verdict"] for one in answers} == {"kernel": "ok", "equality": "ok"}
    assert "*equality*" in (out / "gpu.md").read_text()


def refused(kit: Path, **environment: str) -> str:
    """What run.sh says before it ends with 2."""
    done = subprocess.run(
        ["/bin/sh", str(kit / "run.sh")],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    return done.stderr


@pytest.mark.usefixtures("small")
def test_a_machine_without_the_code_is_told(kit: Path, tmp_path: Path) -> None:
    pack(kit, ["code"])
    for part in (kit / "trip-a").iterdir():
        part.unlink()
    environment = {"PATH": os.environ["PATH"], "PYTHON": sys.executable, "KIT_HOME": str(tmp_path)}
    assert "carry trip-a too" in refused(kit, **environment)


@pytest.mark.usefixtures("small")
def test_a_trip_without_the_rest_is_kept(kit: Path, tmp_path: Path) -> None:
    pack(kit, ["code"])
    (kit / "trip-b1").mkdir()
    done = subprocess.run(
        ["/bin/sh", str(kit / "run.sh")],
        env={"PATH": os.environ["PATH"], "PYTHON": sys.executable, "KIT_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0
    assert "nothing can run before the others are here" in done.stdout


@pytest.mark.usefixtures("small")
def test_a_machine_without_python_is_told(kit: Path, tmp_path: Path) -> None:
    pack(kit, ["code"])
    (tmp_path / "dirname").symlink_to(str(shutil.which("dirname")))
    assert "no Python 3.12 here" in refused(kit, PATH=str(tmp_path))
