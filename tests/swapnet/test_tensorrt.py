from __future__ import annotations

import platform
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from swapnet.errors import BackendUnavailableError
from swapnet.tensorrt import (
    Log,
    Severity,
    how_to_install,
    interrupts_deferred,
    listening,
    load_tensorrt,
    logger,
    version,
)
from tests.helpers.fake_builder import FakeTensorRT, installed
from tests.helpers.processes import interruptible


def test_a_missing_library_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with installed(FakeTensorRT()):
        monkeypatch.setitem(sys.modules, "tensorrt", None)
        with pytest.raises(BackendUnavailableError, match="TensorRT can't be loaded") as caught:
            load_tensorrt("tensorrt")
    assert "pip install" in caught.value.hint
    assert "tensorrt" in caught.value.why


@pytest.mark.parametrize(
    ("machine", "board", "rtx", "other"),
    [
        ("x86_64", "", "pip install 'swapnet-trt[rtx]'", "on PyPI"),
        ("aarch64", "Some server", "pip install 'swapnet-trt[rtx]'", "on PyPI"),
        ("aarch64", "NVIDIA Jetson Orin Nano Developer Kit\0", "not for a Jetson", "JetPack's"),
        ("ppc64le", "", "no package of TensorRT-RTX for ppc64le", "JetPack's"),
    ],
)
def test_hints_are_for_this_machine(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, machine: str, board: str, rtx: str, other: str
) -> None:
    (tmp_path / "model").write_text(board)
    monkeypatch.setattr("swapnet.tensorrt.BOARD", tmp_path / "model")
    monkeypatch.setattr(platform, "machine", lambda: machine)
    assert rtx in how_to_install("tensorrt-rtx")
    assert how_to_install("tensorrt").endswith(other)


def test_rtx_is_found_by_either_name(monkeypatch: pytest.MonkeyPatch) -> None:
    with installed(FakeTensorRT()) as fake:
        monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
        monkeypatch.setitem(sys.modules, "tensorrt_rtx_bindings", fake.module)
        assert version("tensorrt-rtx") == "10.3.0"
        load_tensorrt.cache_clear()
        monkeypatch.setitem(sys.modules, "tensorrt_rtx_bindings", None)
        with pytest.raises(BackendUnavailableError) as caught:
            load_tensorrt("tensorrt-rtx")
    assert "tensorrt_rtx " in caught.value.why
    assert "tensorrt_rtx_bindings" in caught.value.why


def test_all_who_listen_hear() -> None:
    with installed(FakeTensorRT()):
        said = logger("tensorrt")
        assert logger("tensorrt") is said
        with listening("tensorrt") as outer:
            said.log(2, "a warning")
            with listening("tensorrt") as inner, ThreadPoolExecutor() as pool:
                pool.submit(said.log, 1, "an\n  error").result()
                said.log(4, "chatter")
            said.log(3, "news")
        said.log(1, "unheard")
    assert inner.lines == [(Severity.ERROR, "an error")]
    assert [text for _, text in outer.lines] == ["a warning", "an error", "news"]
    assert outer.texts(Severity.WARNING) == ["a warning", "an error"]


def test_a_reason_is_one_line() -> None:
    log = Log()
    assert log.reason("refused") == "refused"
    assert "no reason" in log.reason()
    for severity in (Severity.ERROR, Severity.INTERNAL_ERROR, Severity.ERROR, Severity.INFO):
        log.add(severity, f"{severity.name.lower()}\nsaid")
    assert log.reason() == "error said; internal_error said"


def test_nothing_is_loaded_before_it_is_asked_for() -> None:
    script = "import sys, swapnet.builder, swapnet.executor; print(*sys.modules)"
    child = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    loaded = {name.partition(".")[0] for name in child.stdout.split()}
    assert not {"tensorrt", "tensorrt_rtx", "tensorrt_rtx_bindings", "pycuda"}.intersection(loaded)


def test_an_interrupt_comes_after_the_call() -> None:
    """Raised inside a library's callback it would be lost."""
    done: list[str] = []

    def call() -> None:
        with interrupts_deferred() as noted:
            signal.raise_signal(signal.SIGINT)
            assert noted.is_set()
            done.append("to the end")

    with interruptible(), pytest.raises(KeyboardInterrupt):
        call()
    assert done == ["to the end"]


def test_without_an_interrupt_nothing_comes() -> None:
    before = signal.getsignal(signal.SIGINT)
    with interrupts_deferred() as noted:
        pass

    def elsewhere() -> None:
        with interrupts_deferred() as unset:
            assert not unset.is_set()

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert not noted.is_set()
    assert signal.getsignal(signal.SIGINT) is before
