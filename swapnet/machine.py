"""What this machine has: memory, GPUs."""

from __future__ import annotations

import ctypes
import os
from dataclasses import dataclass
from pathlib import Path

from swapnet.errors import BackendUnavailableError

__all__ = ["Gpu", "device_count", "first_gpu", "memory_bytes"]

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
