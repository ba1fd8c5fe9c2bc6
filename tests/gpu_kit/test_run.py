"""The runner: an answer to each check, whatever becomes of its process."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from swapnet.errors import BackendError, BackendUnavailableError
from tests.gpu_kit import run
from tests.gpu_kit.report import Answer, Results
from tests.gpu_kit.rig import Check, Figures, NotHere, Setting, Wrong
from tests.gpu_kit.run import answer, main, run_checks


def check(action: Callable[[Setting], Figures], limit_s: float = 9.0) -> Check:
    return Check("a", "one", "One.", action, limit_s)


@pytest.mark.parametrize(
    ("error", "verdict", "why"),
    [
        (Wrong("differs", {"of": 3}), "wrong", "differs"),
        (NotHere("no GPU"), "not here", "no GPU"),
        (BackendUnavailableError("no GPU", why="no driver"), "not here", "no GPU: no driver"),
        (BackendError("refused", why="by\nit"), "failed", "BackendError: refused by it"),
        (ValueError("odd"), "failed", "ValueError: odd"),
    ],
)
def test_an_error_is_an_answer(setting: Setting, error: Exception, verdict: str, why: str) -> None:
    def action(_: Setting) -> Figures:
        raise error

    found = answer(check(action), setting)
    assert (found.verdict, found.figures) == (verdict, {"of": 3} if verdict == "wrong" else {})
    assert found.why.startswith(why)


def interpreter(folder: Path, script: str) -> str:
    path = folder / "python"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "verdict", "why"),
    [
        ("sleep 60", "time", "ended after 1 s"),
        ("echo out of memory >&2; kill -SEGV $$", "crashed", "status -11: out of memory"),
        (
            """while [ "$1" != --work ]; do shift; done
echo no library; echo '{"name": "one", "title": "One.", "verdict": "wrong", "seconds": 0,
"why": "no provider", "figures": {}}' > "$2/answer.json"
""",
            "wrong",
            "no provider (no library)",
        ),
    ],
)
def test_a_process_that_hangs_or_crashes_is_an_answer(
    setting: Setting,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    script: str,
    verdict: str,
    why: str,
) -> None:
    monkeypatch.setattr(sys, "executable", interpreter(tmp_path, script))
    until_s = time.monotonic() + 60
    asked = [check(lambda _: {}, limit_s=1.0)]
    (found,) = run_checks("a", asked, setting, until_s, None)
    assert (found.verdict, found.why) == (verdict, why)


def test_no_check_begins_when_time_is_over(setting: Setting) -> None:
    asked = [check(lambda _: {}), check(lambda _: {})]
    found = list(run_checks("a", asked, setting, time.monotonic(), None))
    assert [one.verdict for one in found] == ["no time"] * 2


def test_packages_of_the_kit_come_first(tmp_path: Path) -> None:
    for name in ("code", "core", "ort", "data"):
        (tmp_path / name).mkdir()
    found = run._environment("b", tmp_path)
    assert found["PYTHONPATH"].split(":") == [str(tmp_path / n) for n in ("code", "ort", "core")]
    assert found["SWAPNET_CACHE"] == str(tmp_path / "data")
    assert "PYTHONPATH" not in run._environment("a", None)


def test_one_check_writes_its_answer(
    setting: Setting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a child; a simulated GPU takes the place of CUDA's there."""
    simulated: list[bool] = []
    monkeypatch.setattr(run, "simulate", lambda: simulated.append(True))
    monkeypatch.setattr(run, "CHECKS", [check(lambda given: {"small": given.small})])
    place = ("--out", str(setting.out), "--work", str(tmp_path))
    assert main([*place, "--one", "a:one", "--simulated"]) == 0
    found = msgspec.json.decode((tmp_path / "answer.json").read_bytes(), type=Answer)
    assert (found.verdict, found.figures, simulated) == ("ok", {"small": True}, [True])


@pytest.mark.parametrize(("verdict", "status"), [("ok", 0), ("not here", 0), ("wrong", 1)])
def test_results_are_kept_after_each_check(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    verdict: str,
    status: int,
) -> None:
    out = tmp_path / "out"
    monkeypatch.setattr(run, "CHECKS", [check(lambda _: {}), check(lambda _: {})])
    kept: list[int] = []

    def child(part: str, one: Check, *_: object) -> Answer:
        file = out / f"results-{part}.json"
        before = msgspec.json.decode(file.read_bytes(), type=Results).answers if kept else ()
        kept.append(len(before))
        return Answer(one.name, one.title, verdict, 1.0, "because", {"n": 1})

    monkeypatch.setattr(run, "_in_child", child)
    given = ["--out", str(out), "--work", str(tmp_path / "work"), "--parts", "a", "--simulated"]
    assert main(given) == status
    assert kept == [0, 1]
    assert (out / "table.txt").read_text() == capsys.readouterr().out
    assert "### Part a" in (out / "gpu.md").read_text()


def test_no_check_writes_no_page(tmp_path: Path) -> None:
    given = ["--out", str(tmp_path / "out"), "--work", str(tmp_path), "--only", "nothing"]
    assert main(given) == 0
    assert not (tmp_path / "out" / "gpu.md").exists()


@pytest.mark.slow
def test_a_real_child_answers(tmp_path: Path) -> None:
    out = tmp_path / "out"
    given = ["--out", str(out), "--work", str(tmp_path / "work")]
    assert main([*given, "--simulated", "--parts", "a", "--only", "kernel"]) == 0
    (found,) = msgspec.json.decode((out / "results-a.json").read_bytes(), type=Results).answers
    assert (found.name, found.verdict) == ("kernel", "ok")
