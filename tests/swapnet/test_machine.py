"""What this machine says of itself, and what others would."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from swapnet.machine import Gpu, first_gpu, huge_page_bytes, memory_bytes, storage_device


def test_the_machine_has_at_most_its_memory() -> None:
    assert 0 < memory_bytes() <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def test_huge_pages_are_as_large_as_the_kernel_says(tmp_path: Path) -> None:
    (tmp_path / "hpage_pmd_size").write_text("33554432\n")
    assert huge_page_bytes(tmp_path / "hpage_pmd_size") == 32 << 20
    assert huge_page_bytes(tmp_path / "none") == 0


@pytest.mark.parametrize(
    ("device", "type_", "expected"),
    [
        ("mmcblk0/mmcblk0p2", "SD", "mmcblk0p2 (SD card)"),
        ("mmcblk1", "MMC", "mmcblk1 (eMMC)"),
        ("nvme0n1/nvme0n1p1", "", "nvme0n1p1 (NVMe)"),
        ("sda/sda1", "", "sda1"),
    ],
)
def test_storage_is_named_with_its_kind(
    tmp_path: Path, device: str, type_: str, expected: str
) -> None:
    disk, _, partition = device.partition("/")
    (tmp_path / disk / "device").mkdir(parents=True)
    (tmp_path / disk / "device" / "type").write_text(f"{type_}\n")
    if partition:
        (tmp_path / device).mkdir()
        (tmp_path / device / "partition").write_text("1\n")
    number = os.stat(tmp_path).st_dev
    assert storage_device(tmp_path, tmp_path / "none") == ""
    (tmp_path / f"{os.major(number)}:{os.minor(number)}").symlink_to(device)
    assert storage_device(tmp_path, tmp_path) == expected


class Driver:
    """The driver's calls, with one device of compute capability 8.7."""

    def __init__(self, count: int) -> None:
        self.count = count

    def cuInit(self, flags: int) -> int:
        return flags

    def cuDeviceGetCount(self, count: Any) -> int:
        count._obj.value = self.count
        return 0

    def cuDeviceGet(self, device: Any, index: int) -> int:
        device._obj.value = 5
        return 0 if index < self.count else 101

    def cuDeviceGetName(self, name: Any, length: int, device: Any) -> int:
        assert (length, device.value) == (256, 5)
        name.value = b"Orin"
        return 0

    def cuDeviceGetAttribute(self, value: Any, attribute: int, device: Any) -> int:
        assert device.value == 5
        value._obj.value = {75: 8, 76: 7}[attribute]
        return 0


@pytest.mark.parametrize(("count", "found"), [(1, Gpu("Orin", "sm87")), (0, None)])
def test_the_driver_is_asked_for_its_first_gpu(
    monkeypatch: pytest.MonkeyPatch, count: int, found: Gpu | None
) -> None:
    monkeypatch.setattr("ctypes.CDLL", lambda _: Driver(count))
    assert first_gpu() == found


def test_without_a_driver_there_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("swapnet.machine._DRIVER", "libnothing-of-this-name.so")
    assert first_gpu() is None
