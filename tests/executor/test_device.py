"""What delays are measured on."""

from __future__ import annotations

import builtins
import importlib.metadata
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnxruntime
import pytest

from swapnet.executor.device import Device, processor_name, runtime_version


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
    assert not processor_name() or processor_name() in parts
    assert Device(threads=3).fingerprint != Device(threads=2).fingerprint


def test_a_processor_without_a_name(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    assert processor_name(cpuinfo) == ""
    cpuinfo.write_text("processor : 0\nmodel name\t: Some CPU @ 2 GHz\n")
    assert processor_name(cpuinfo) == "Some CPU @ 2 GHz"


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
