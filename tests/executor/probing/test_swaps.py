from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from swapnet.errors import BackendError
from swapnet.executor.probing.swaps import Job, measure_swaps, swap_times, work
from swapnet.manifest import load_manifest
from swapnet.process.failure import Failed
from swapnet.testing.gpu import SimulatedAccelerator
from tests.helpers.gpu import BuildGpu
from tests.helpers.serving import child_runs, served


@pytest.mark.usefixtures("trt")
@pytest.mark.parametrize("embedded", ["none", "odd", "all"])
def test_every_block_has_a_time(gpu_engine: BuildGpu, embedded: str) -> None:
    """On a GPU whose calls take 7 ms of virtual time and reads next to nothing."""
    folder = gpu_engine("images-sliced", "tensorrt", embedded)
    times = swap_times(folder, SimulatedAccelerator(call_ms=[500.0]))
    assert len(times) == len(load_manifest(folder).blocks)
    assert all(ms == pytest.approx(500.0) for ms in times)


def test_a_machine_without_a_gpu_is_told(
    gpu_engine: BuildGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> None:
        raise OSError(f"{name} is not here")

    monkeypatch.setattr("ctypes.CDLL", missing)
    status, said = served(work, Job(str(gpu_engine("used-twice"))))
    assert status == 2
    assert "there is no CUDA driver here" in msgspec.json.decode(said, type=Failed).what


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("sys.exit('the GPU refused')", "ended with status 1: the GPU refused"),
        ("import os; os.kill(os.getpid(), 11)", "killed by signal 11"),
    ],
)
def test_a_child_that_fails_is_told(monkeypatch: pytest.MonkeyPatch, code: str, why: str) -> None:
    asked = child_runs(monkeypatch, f"import sys; sys.stdin.readline(); {code}")
    with pytest.raises(BackendError, match="mine can't be measured on this GPU") as caught:
        measure_swaps(Path("mine"))
    assert asked[0][1:3] == ["-m", "swapnet.executor.probing.swaps"]
    assert why in caught.value.why


def test_times_come_from_the_child(monkeypatch: pytest.MonkeyPatch) -> None:
    said = msgspec.json.encode((1.5, 2.0)).decode()
    child_runs(monkeypatch, f"input(); print({said!r})")
    assert measure_swaps(Path("mine")) == (1.5, 2.0)
