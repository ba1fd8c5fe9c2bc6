"""What delays are measured on."""

from __future__ import annotations

import builtins
import importlib.metadata
import platform
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import onnxruntime
import pytest

from swapnet.errors import BackendUnavailableError, InputError
from swapnet.executor.backends import device_for
from swapnet.executor.device import Device, runtime_version
from swapnet.executor.pace import Pace
from swapnet.machine import processor_name
from swapnet.manifest import Manifest
from tests.helpers.boards import BOARDS, be_processor, board_files


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    """The version is asked for anew."""
    runtime_version.cache_clear()
    yield
    runtime_version.cache_clear()


def test_the_fingerprint_names_processor_runtime_and_threads() -> None:
    parts = Device(threads=3).fingerprint.split("/")
    assert parts[-1] == "3 threads"
    assert f"onnxruntime {onnxruntime.__version__}" in parts
    assert set(processor_name().split("/")) <= set(parts)
    assert Device(threads=3).fingerprint != Device(threads=2).fingerprint


def test_an_x86_processor_says_its_name(tmp_path: Path) -> None:
    cpuinfo, board = tmp_path / "cpuinfo", tmp_path / "none"
    assert processor_name(cpuinfo, board) == platform.machine()
    cpuinfo.write_text("processor : 0\nmodel\t: 85\nmodel name\t: Some CPU @ 2 GHz\n")
    assert processor_name(cpuinfo, board) == "Some CPU @ 2 GHz"


@pytest.mark.parametrize(("board", "name"), BOARDS.items())
def test_an_arm_processor_is_named_by_its_board_and_cores(board: str, name: str) -> None:
    assert processor_name(*board_files(board)) == name


def test_a_container_hides_the_board(tmp_path: Path) -> None:
    names = [processor_name(board_files(board)[0], tmp_path / "hidden") for board in BOARDS]
    assert names == [*list(BOARDS.values())[:2], "Cortex-A78AE"]


def test_unknown_and_different_cores_are_listed_once(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    ids = [("0x41", "0xd05"), ("0x41", "0xd05"), ("0x61", "0x022")]
    cpuinfo.write_text(
        "".join(f"CPU implementer\t: {maker}\nCPU part\t: {part}\n\n" for maker, part in ids)
    )
    assert processor_name(cpuinfo, tmp_path / "none") == "Cortex-A55 and 0x61/0x022"


def test_different_boards_are_different_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    found = []
    for board in BOARDS:
        be_processor(monkeypatch, board)
        found.append(Device(threads=4).fingerprint)
    assert len(set(found)) == len(BOARDS)
    assert all(each.startswith("aarch64+asimd/") for each in found)


def test_a_loaded_runtime_says_its_version() -> None:
    assert runtime_version() == onnxruntime.__version__


def test_the_package_is_asked_without_loading_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "onnxruntime")
    assert runtime_version() == importlib.metadata.version("onnxruntime")
    assert "onnxruntime" not in sys.modules


def test_a_runtime_from_another_package(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    def loaded(name: str, *rest: Any) -> Any:
        return onnxruntime if name == "onnxruntime" else real(name, *rest)

    real = builtins.__import__
    monkeypatch.setattr(importlib.metadata, "version", unknown)
    monkeypatch.delitem(sys.modules, "onnxruntime")
    monkeypatch.setattr(builtins, "__import__", loaded)
    assert runtime_version() == onnxruntime.__version__
    runtime_version.cache_clear()
    monkeypatch.undo()
    monkeypatch.setattr(importlib.metadata, "version", unknown)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert runtime_version() == ""
    assert "onnxruntime" not in Device().fingerprint


@pytest.mark.parametrize("threads", [0, -2])
def test_a_device_computes_with_a_thread_at_least(threads: int) -> None:
    with pytest.raises(InputError, match=f"{threads} threads can't compute"):
        Device(threads)


@pytest.mark.parametrize("bytes_per_s", [0, -1.0, float("nan")])
def test_a_pace_is_above_0(bytes_per_s: float) -> None:
    with pytest.raises(InputError, match="bytes a second"):
        Pace(bytes_per_s)


def test_the_gpu_of_a_number_is_asked_for(
    simulated_manifest: Callable[..., Manifest], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def open_cuda(index: int) -> None:
        asked.append(index)
        raise BackendUnavailableError("there is no GPU")

    monkeypatch.setattr("swapnet.executor.gpu.cuda.open_cuda", open_cuda)
    manifest = simulated_manifest([4096])
    assert device_for(manifest, 1, gpu_index=3).gpu_index == 0
    compiled = msgspec.structs.replace(manifest.compiled, backend="tensorrt")
    manifest = msgspec.structs.replace(manifest, compiled=compiled)
    assert device_for(manifest, 1, gpu_index=3) == Device(1, gpu_index=3)
    assert asked == [3]
