"""What this machine has: memory, GPUs."""

from __future__ import annotations

import ctypes
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from swapnet.errors import BackendUnavailableError

__all__ = ["Gpu", "device_count", "first_gpu", "huge_page_bytes", "memory_bytes", "storage_device"]

_DRIVER = "libcuda.so.1"

_MAJOR, _MINOR = 75, 76
"""``CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR`` and ``…_MINOR``."""

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


@dataclass(frozen=True)
class Gpu:
    """A CUDA device.

    Attributes
    ----------
    name
        As the driver says it, such as ``NVIDIA H100 80GB HBM3``.
    target
        Compute capability as in ``sm90``.
    """

    name: str
    target: str


def device_count() -> int:
    """Number of GPUs, at least 1; the driver is asked without any CUDA package.

    Raises
    ------
    BackendUnavailableError
        There is no driver, or it has no GPU. Runtime libraries crash where they are not told.
    """
    try:
        driver = ctypes.CDLL(_DRIVER)
    except OSError as error:
        raise BackendUnavailableError(
            "there is no CUDA driver here",
            why=str(error),
            hint="install NVIDIA's driver, or build with --backend onnxruntime",
        ) from error
    count = ctypes.c_int()
    status = driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count))
    if status or not count.value:
        raise BackendUnavailableError(
            "there is no CUDA GPU here",
            why=f"the driver answers {status} and counts {count.value} devices",
            hint="check nvidia-smi and CUDA_VISIBLE_DEVICES, or build with --backend onnxruntime",
        )
    return count.value


def first_gpu() -> Gpu | None:
    """The first GPU; None where there is none, or no driver."""
    try:
        device_count()
    except BackendUnavailableError:
        return None
    driver = ctypes.CDLL(_DRIVER)
    device, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    name = ctypes.create_string_buffer(256)
    refused = (
        driver.cuDeviceGet(ctypes.byref(device), 0),
        driver.cuDeviceGetName(name, len(name), device),
        driver.cuDeviceGetAttribute(ctypes.byref(major), _MAJOR, device),
        driver.cuDeviceGetAttribute(ctypes.byref(minor), _MINOR, device),
    )
    if any(refused):
        return None
    return Gpu(name.value.decode(errors="replace"), f"sm{major.value}{minor.value}")
