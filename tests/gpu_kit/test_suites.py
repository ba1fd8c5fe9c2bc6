"""Parts (b) and (c): what is asked, and what becomes of what was printed."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from swapnet.errors import BackendUnavailableError
from tests.gpu_kit import suites
from tests.gpu_kit.rig import NotHere, Setting, Wrong
from tests.gpu_kit.suites import CHECKS, bench, decoder, outcomes, provider, suite
from tests.helpers import decoders

LOG = """
tests/gpu/test_swapping.py::test_one[onnxruntime-cuda-external] PASSED [ 50%]
tests/gpu/test_swapping.py::test_two[onnxruntime-cuda-external] FAILED [ 75%]
tests/gpu/test_swapping.py::test_three[onnxruntime-cuda-external] """


def test_outcomes_are_counted_as_far_as_the_suite_came() -> None:
    assert outcomes(LOG) == {"PASSED": 1, "FAILED": 1}
    assert not outcomes("")


def test_names_are_unique() -> None:
    names = [check.name for check in CHECKS]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(("status", "why"), [(None, "not ended after 20 s"), (1, "ended with 1")])
def test_a_suite_that_does_not_end_well_says_how_far_it_came(
    setting: Setting, monkeypatch: pytest.MonkeyPatch, status: int | None, why: str
) -> None:
    def run(command: list[str], log: Path, *_: object, **__: object) -> int | None:
        assert "tests.gpu_kit.simulated" in command
        log.write_text(LOG)
        return status

    monkeypatch.setattr(suites, "_run", run)
    with pytest.raises(Wrong, match=why) as raised:
        suite(setting, "onnxruntime-cuda", 20.0)
    assert raised.value.figures["passed"] == 1


def test_a_suite_passes(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(_: list[str], log: Path, *__: object, **___: object) -> int:
        log.write_text(LOG)
        return 0

    monkeypatch.setattr(suites, "_run", run)
    found = suite(setting, "onnxruntime-cuda", 20.0)
    assert found == {"passed": 1, "failed": 1, "log": "suite-onnxruntime-cuda.log"}


def test_a_benchmark_gives_its_cases(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(command: list[str], log: Path, *_: object) -> int:
        log.write_text("one\ntwo\n")
        Path(command[-1]).write_text("[1]")
        return int("broken" in command)

    monkeypatch.setattr(suites, "_run", run)
    assert bench(setting, "onnxruntime-cuda", "toy", 20.0) == {"cases": [1]}
    with pytest.raises(Wrong, match="it ended with 1: one two"):
        bench(setting, "onnxruntime-cuda", "broken", 20.0)


def test_the_provider_multiplies(setting: Setting) -> None:
    assert provider(setting)["max_rel_error"] < 1e-5


@pytest.mark.slow
@pytest.mark.usefixtures("on_simulated_gpu")
def test_decoders_give_tokens(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    found = decoder(setting, "onnxruntime-cuda")
    assert {each["equal_to_cpu"] for each in found.values()} == {12}
    monkeypatch.setattr(decoders, "expected", lambda *_: [-1] * 12)
    with pytest.raises(Wrong, match="not those of ONNX Runtime"):
        decoder(setting, "onnxruntime-cuda")


def test_tensorrt_is_not_simulated(setting: Setting) -> None:
    for check in CHECKS:
        if check.part == "c":
            with pytest.raises(NotHere, match="does not run on a simulated GPU"):
                check.run(setting)


def test_a_library_is_asked_on_a_real_gpu(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(backend: str) -> None:
        raise BackendUnavailableError(f"{backend} does not run on H200", why="it is an sm90")

    monkeypatch.setattr(suites, "check_runnable", refuse)
    with pytest.raises(BackendUnavailableError, match="tensorrt-rtx does not run on H200"):
        suites.asked(replace(setting, simulated=False), "tensorrt-rtx")
    monkeypatch.setattr(suites, "check_runnable", lambda _: None)
    assert suites.asked(replace(setting, simulated=False), "tensorrt")["runs"]


def test_commands_on_a_real_gpu_have_no_plugin(setting: Setting) -> None:
    real = replace(setting, simulated=False)
    assert suites._python(real, "pytest")[1:] == ["-m", "pytest"]
    assert suites._python(setting, "swapnet")[1:] == ["-m", "tests.gpu_kit.simulated"]


def test_models_are_made(setting: Setting, tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "m.onnx").write_bytes(b"123")
    monkeypatch.setattr(
        "swapnet.models.get", lambda _: type("Files", (), {"onnx": tmp_path / "m.onnx"})
    )
    assert set(suites.made(setting).values()) == {3}


def test_a_command_that_takes_too_long_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def late(*_: object, **given: Any) -> Any:
        given["stdout"].write(b"so far")
        raise subprocess.TimeoutExpired("command", given["timeout"])

    monkeypatch.setattr(subprocess, "run", late)
    assert suites._run(["x"], tmp_path / "log", 30.0) is None
    assert (tmp_path / "log").read_bytes() == b"so far"
