"""Engines to measure, and a cache of their own."""

from __future__ import annotations

from pathlib import Path

import pytest

from swapnet.calibration.delays import blocks
from swapnet.testing.engine import write_engine


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache folder of this test."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("SWAPNET_CACHE", str(folder))
    return folder


@pytest.fixture(autouse=True)
def few_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process measurements are short."""
    monkeypatch.setattr(blocks, "_ENOUGH_S", 0.0)


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A simulated engine too small to say much of storage."""
    write_engine(tmp_path / "small", [8192, 100, 70000])
    return tmp_path / "small"
