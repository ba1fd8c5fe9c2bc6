"""``swapnet doctor``."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from swapnet.cli import diagnosis
from swapnet.cli.diagnosis import Diagnosis
from swapnet.errors import BackendUnavailableError
from swapnet.executor import backends
from tests.cli.conftest import Call

REASON = "a library with [brackets] is not here"
HINT = "pip install 'swapnet-trt[cuda]'"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Little is written."""
    monkeypatch.setattr(diagnosis, "_PROBE_BYTES", 4 << 20)


@pytest.fixture
def nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """No backend can execute engines."""

    def refuse(_: str) -> None:
        raise BackendUnavailableError(REASON, hint=HINT)

    monkeypatch.setattr(backends, "check_runnable", refuse)


def test_everything_is_shown(call: Call, tmp_path: Path) -> None:
    shown = call("doctor", tmp_path)
    assert shown.status == 0
    assert "onnxruntime-cuda" in shown.out
    titles = ("Backends", "GPU", "Packages", "Machine", "Storage", "Memory limit")
    assert all(f"\n{title}" in f"\n{shown.out}" for title in titles)
    assert "Engines can be run here with: onnxruntime" in shown.out
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("nothing_runs")
def test_where_nothing_runs_the_status_is_one(call: Call, tmp_path: Path) -> None:
    shown = call("doctor", tmp_path)
    assert shown.status == 1
    assert shown.out.count(REASON) == 1
    assert f"tensorrt, tensorrt-rtx can't run: {REASON}\n  {HINT}" in shown.out
    assert "No backend can run engines here" in shown.out


def test_names_in_brackets_are_shown(call: Call, tmp_path: Path) -> None:
    (folder := tmp_path / "[red]").mkdir()
    assert "[red]" in call("doctor", folder).out


def test_json_is_the_same(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shown = call("doctor", "--json", "-")
    found = msgspec.json.decode(shown.out, type=Diagnosis)
    assert shown.status == 0
    assert found.schema == "swapnet-doctor/1"
    assert "onnxruntime" in found.runnable
    assert {"packages", "machine", "storage", "memory limit"} < set(found.topics)
    assert msgspec.json.decode(msgspec.json.encode(found), type=Diagnosis) == found


@pytest.mark.usefixtures("nothing_runs")
def test_json_in_a_file(call: Call, tmp_path: Path) -> None:
    target = tmp_path / "found.json"
    shown = call("doctor", tmp_path, "--json", target)
    assert (shown.status, shown.out) == (1, "")
    assert not msgspec.json.decode(target.read_bytes(), type=Diagnosis).runnable
    assert list(tmp_path.iterdir()) == [target]


def test_no_such_folder(call: Call, tmp_path: Path) -> None:
    assert call("doctor", tmp_path / "none").is_user_error("none", "there is no such folder")


def test_the_help_tells_the_status(call: Call) -> None:
    assert "  doctor " in call("--help").out
    assert "exit status is 0" in call("doctor", "--help").out
