"""What this machine has."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

__all__ = ["huge_page_bytes", "memory_bytes", "storage_device"]

_LIMITS = (
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
    Path("/sys/fs/cgroup/memory.max"),
)


def memory_bytes() -> int:
    """Physical memory, or the kernel's limit for this container where that is lower."""
    available = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for path in _LIMITS:
        if path.exists() and (text := path.read_text().strip()).isdigit():
            available = min(available, int(text))
    return available


@cache
def huge_page_bytes(
    path: Path = Path("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size"),
) -> int:
    """Size of the kernel's huge pages; 0 where it gives none to those who ask for them.

    2 MiB with pages of 4 KiB, 32 MiB with 16 KiB, 512 MiB with 64 KiB.
    """
    return int(path.read_text()) if path.exists() else 0


def storage_device(folder: Path, devices: Path = Path("/sys/dev/block")) -> str:
    """Name of the device that a folder lies on, and its kind; empty where it is on none of its own.

    Parameters
    ----------
    folder
        It exists.
    devices
        The kernel's links from numbers to devices.
    """
    number = os.stat(folder).st_dev
    link = devices / f"{os.major(number)}:{os.minor(number)}"
    if not link.exists():
        return ""
    device = link.resolve()
    disk = device.parent if (device / "partition").exists() else device
    kind = "NVMe" if disk.name.startswith("nvme") else ""
    if disk.name.startswith("mmcblk"):
        is_card = (disk / "device" / "type").read_text().strip() == "SD"
        kind = "SD card" if is_card else "eMMC"
    return f"{device.name} ({kind})" if kind else device.name
