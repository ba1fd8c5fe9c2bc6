"""Blocks of the kit: the same bits everywhere, and planted faults that show."""

from __future__ import annotations

import shutil
import struct
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from swapnet.errors import BackendError, BackendUnavailableError
from swapnet.executor import SwapExecutor
from swapnet.executor.gpu.cuda import Stream
from swapnet.manifest import load_manifest
from tests.gpu_kit import blocks
from tests.gpu_kit.blocks import CudaKernels, compiled, mixed
from tests.gpu_kit.rig import Rig, simulated_gpu


def test_sums_wrap_as_the_kernel_writes_them() -> None:
    weights = np.array([[1, 2**32 - 1], [7, 9]], np.uint32)
    expected = []
    for column, value in enumerate((5, 2**31)):
        for row in weights:
            value = (value * 1664525 + 1013904223) % 2**32 ^ int(row[column])
        expected.append(value)
    assert mixed(np.array([5, 2**31], np.uint32), weights).tolist() == expected


@pytest.mark.parametrize("kind", ["device", "managed", "mapped"])
@pytest.mark.parametrize("budget", ["100%", "weights:50%", "weights:25%"])
def test_any_budget_and_memory_gives_the_same_bits(rig: Rig, kind: str, budget: str) -> None:
    for gpu in rig.gpus(3):
        with rig.executor(budget, kind=kind, gpu=gpu) as executor:
            assert all(rig.is_right(executor) for _ in range(3))
            assert (executor.plan.streamed_bytes == 0) == (budget == "100%")


def test_every_word_of_the_weights_counts(rig: Rig, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(rig.folder, tmp_path / "engine"))
    weight = load_manifest(folder).blocks[-1].weights[0]
    with (folder / "weights.bin").open("r+b") as file:
        file.seek(weight.offset + weight.nbytes - 4)
        file.write(bytes(4))
    with blocks.installed(), SwapExecutor(folder, "100%", gpu=simulated_gpu()) as executor:
        assert not rig.is_right(executor)


def test_its_engines_open_only_where_the_backend_is_installed(rig: Rig) -> None:
    with pytest.raises(BackendUnavailableError, match="was compiled for kernels-cuda"):
        SwapExecutor(rig.folder, "100%", gpu=rig.gpu)


def test_a_real_gpu_is_given_what_the_kernel_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    launched: list[tuple[Any, ...]] = []
    function = SimpleNamespace(_launch_kernel=lambda *given: launched.append(given))
    module = SimpleNamespace(get_function=lambda name: {"mix": function}[name])
    cuda: Any = SimpleNamespace(
        attributes=SimpleNamespace(architecture="sm90"),
        current=nullcontext,
        driver=SimpleNamespace(module_from_buffer=lambda code: {b"code": module}[code]),
    )
    monkeypatch.setattr(blocks, "compiled", lambda _: b"code")
    handle = object()
    CudaKernels(cuda, 9).launch(Stream(cuda, handle), 1 << 40, 2, 3, (5, 600))
    ((grid, block, given, shared, stream),) = launched
    assert (grid, block, shared, stream) == ((3, 1, 1), (256, 1, 1), 0, handle)
    assert struct.unpack("PPPiiQ", given) == (1 << 40, 2, 3, 5, 600, 9)


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nothing was compiled before."""
    monkeypatch.setattr(blocks, "gettempdir", lambda: str(tmp_path))
    compiled.cache_clear()
    return tmp_path


def test_a_machine_without_a_compiler_is_told(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    monkeypatch.setitem(sys.modules, "cuda.core", None)
    with pytest.raises(BackendError, match="there is no nvcc"):
        compiled("sm90")
    assert list(temporary.iterdir()) == []


def test_what_nvcc_refuses_is_said(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nvcc = temporary / "nvcc"
    nvcc.write_text("#!/bin/sh\necho no such architecture >&2\nexit 1\n")
    nvcc.chmod(0o755)
    monkeypatch.setattr(shutil, "which", lambda _: str(nvcc))
    monkeypatch.setitem(sys.modules, "cuda.core", None)
    with pytest.raises(BackendError, match="no such architecture"):
        compiled("sm1")


def test_code_is_compiled_once_and_kept(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nvcc = temporary / "nvcc"
    nvcc.write_text('#!/bin/sh\necho "$2" >> "$(dirname "$0")/asked"\nprintf code > "$4"\n')
    nvcc.chmod(0o755)
    monkeypatch.setattr(shutil, "which", lambda _: str(nvcc))
    for _ in range(2):
        assert compiled("sm90") == b"code"
        compiled.cache_clear()
    assert (temporary / "asked").read_text() == "-arch=sm_90\n"


def test_nvrtc_takes_the_place_of_nvcc(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Program:
        def __init__(self, source: str, language: str, options: Any) -> None:
            assert "mix" in source
            assert (language, options) == ("c++", {"arch": "sm_90"})

        def compile(self, target: str) -> Any:
            return SimpleNamespace(code=target.encode())

    core = SimpleNamespace(Program=Program, ProgramOptions=dict)
    monkeypatch.setattr(shutil, "which", lambda _: None)
    monkeypatch.setitem(sys.modules, "cuda.core", core)
    assert compiled("sm90") == b"cubin"
    assert temporary.exists()
    compiled.cache_clear()
