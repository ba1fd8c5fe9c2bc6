"""The GPU that TensorRT builds on, asked of the driver without any CUDA package."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

__all__ = ["Gpu", "first_gpu"]

_MAJOR, _MINOR = 75, 76
"""``CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR`` and ``…_MINOR``."""

_DRIVER = "libcuda.so.1"


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


def first_gpu(driver: str = _DRIVER) -> Gpu | None:
    """The first CUDA device; None where there is none, or no driver."""
    try:
        cuda = ctypes.CDLL(driver)
    except OSError:
        return None
    device, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    name = ctypes.create_string_buffer(256)
    results = (
        cuda.cuInit(0),
        cuda.cuDeviceGet(ctypes.byref(device), 0),
        cuda.cuDeviceGetName(name, len(name), device),
        cuda.cuDeviceGetAttribute(ctypes.byref(major), _MAJOR, device),
        cuda.cuDeviceGetAttribute(ctypes.byref(minor), _MINOR, device),
    )
    if any(results):
        return None
    return Gpu(name.value.decode(errors="replace"), f"sm{major.value}{minor.value}")
