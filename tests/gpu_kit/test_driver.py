"""The driver without a GPU, and the rehearsal that uses it."""

from __future__ import annotations

import ctypes
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from swapnet.errors import BackendUnavailableError
from tests.gpu_kit import rehearse
from tests.gpu_kit.driver import build_driver


@pytest.mark.slow
def test_it_counts_memory_and_wants_a_context(tmp_path: Path) -> None:
    try:
        driver = ctypes.CDLL(str(build_driver(tmp_path)))
    except BackendUnavailableError as error:
        pytest.skip(error.why)
    place, free, total = ctypes.c_uint64(), ctypes.c_size_t(), ctypes.c_size_t()
    assert driver.cuMemAlloc_v2(ctypes.byref(place), 4096) == 201
    context = ctypes.c_void_p()
    assert driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0) == 0
    assert driver.cuCtxPushCurrent_v2(context) == 0
    assert driver.cuMemAlloc_v2(ctypes.byref(place), ctypes.c_size_t(4096)) == 0
    assert driver.cuMemGetInfo_v2(ctypes.byref(free), ctypes.byref(total)) == 0
    assert total.value - free.value == 4096
    assert driver.cuMemFree_v2(place) == 0
    assert driver.cuMemFree_v2(place) == 1
    assert driver.cuGraphCreate() == 801


def test_a_machine_without_headers_is_told(tmp_path: Path) -> None:
    with pytest.raises(BackendUnavailableError, match="can't be built"):
        build_driver(tmp_path, [tmp_path])


@pytest.mark.parametrize("built", [True, False])
def test_a_rehearsal_runs_a_copy_in_an_empty_environment(
    kit: Path, monkeypatch: pytest.MonkeyPatch, built: bool
) -> None:
    kit.mkdir()
    (kit / "run.sh").touch()
    (kit / "packed").mkdir()
    asked: list[tuple[list[str], dict[str, Any]]] = []

    def run(command: list[str], **given: Any) -> Any:
        asked.append((command, given))
        return SimpleNamespace(returncode=len(asked))

    def build(_: Path) -> None:
        if not built:
            raise BackendUnavailableError("no driver", why="no compiler")

    monkeypatch.setattr(rehearse, "build_driver", build)
    monkeypatch.setattr(subprocess, "run", run)
    assert rehearse.main(["--kit", str(kit), "--python", "py"]) == 3 + built
    simulated = asked[2]
    assert simulated[0][:3] == ["sh", "gpu-kit/run.sh", "--simulated"]
    assert "PYTHONPATH" not in simulated[1]["env"]
    assert [("LD_LIBRARY_PATH" in given["env"]) for _, given in asked[2:]] == [False, True][
        : 1 + built
    ]
