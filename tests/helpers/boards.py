"""ARM devices as their kernels describe them: files of ``tests/helpers/devices``."""

from __future__ import annotations

from pathlib import Path

import pytest

from swapnet.machine import processor_name

__all__ = ["BOARDS", "be_processor", "board_files"]

BOARDS = {
    "raspberry-pi-4": "Raspberry Pi 4 Model B Rev 1.5, Cortex-A72",
    "raspberry-pi-5": "Raspberry Pi 5 Model B Rev 1.0, Cortex-A76",
    "jetson-orin-nano": "NVIDIA Jetson Orin Nano Developer Kit, Cortex-A78AE",
}
"""The name of each one's processor."""


def board_files(board: str) -> tuple[Path, Path]:
    """Its ``/proc/cpuinfo`` and ``/proc/device-tree/model``."""
    folder = Path(__file__).parent / "devices" / board
    return folder / "cpuinfo", folder / "model"


def be_processor(monkeypatch: pytest.MonkeyPatch, board: str) -> None:
    """Have the fingerprint of devices read another processor's files."""
    files = board_files(board)
    monkeypatch.setattr("swapnet.executor.device.processor_name", lambda: processor_name(*files))
