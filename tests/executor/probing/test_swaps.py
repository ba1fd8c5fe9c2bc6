from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from swapnet.errors import BackendError
from swapnet.executor.probing.swaps import main, measure_swaps, swap_times
from swapnet.manifest import load_manifest
from swapnet.testing.gpu import SimulatedAccelerator
from tests.helpers.gpu import BuildGpu


@pytest.mark.usefixtures("trt")
@pytest.mark.parametrize("embedded", ["none", "odd", "all"])
def test_every_block_has_a_time(gpu_engine: BuildGpu, embedded: str) -> None:
    """On a GPU whose calls take 7 ms of virtual time and reads next to nothing."""
    folder = gpu_engine("images-sliced", "tensorrt", embedded)
    times = swap_times(folder, SimulatedAccelerator(call_ms=[500.0]))
    assert len(times) == len(load_manifest(folder).blocks)
    assert all(ms == pytest.approx(500.0) for ms in times)


def test_a_machine_without_a_gpu_is_told(
    gpu_engine: BuildGpu, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> None:
        raise OSError(f"{name} is not here")

    monkeypatch.setattr("ctypes.CDLL", missing)
    assert main(str(gpu_engine("used-twice"))) == 2
    assert "there is no CUDA driver here" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("status", "error", "why"),
    [(2, "loading\nthe GPU refused", "the GPU refused"), (-11, "", "the process ended with -11")],
)
def test_a_child_that_fails_is_told(
    monkeypatch: pytest.MonkeyPatch, status: int, error: str, why: str
) -> None:
    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        assert command[1:3] == ["-m", "swapnet.executor.probing.swaps"]
        return subprocess.CompletedProcess(command, status, "", error)

    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(BackendError, match="mine can't be measured on this GPU") as caught:
        measure_swaps(Path("mine"))
    assert caught.value.why == why


def test_times_come_from_the_child(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        subprocess,
        "run",
        lambda command, **_: subprocess.CompletedProcess(command, 0, "[1.5,2.0]", ""),
    )
    assert measure_swaps(Path("mine")) == (1.5, 2.0)
