"""Properties of a processor that a compiled engine depends on."""

from __future__ import annotations

import ctypes
import mmap
import platform
from pathlib import Path

from swapnet.machine import CPUINFO
from swapnet.manifest import WINDOW_ALIGNMENT

__all__ = [
    "PORTABLE",
    "cpu_fingerprint",
    "int8_saturates",
    "kernel_fingerprint",
    "processor_fingerprint",
    "with_vnni",
]

PORTABLE = "portable"
"""The fingerprint of an engine without hardware layouts."""

_X86 = "x86_64"
_LAYOUT_FEATURES = ("avx512f", "avx2", "avx")
_KERNEL_FEATURES = (
    *("avx", "avx2", "avx512f", "avx512bw", "avx512_vnni", "avx_vnni", "avx_vnni_int8"),
    *("amx_tile", "amx_int8", "amx_bf16"),
)
"""Features by which MLAS chooses kernels on x86-64 (``platform.cpp``)."""

_AT_HWCAP, _AT_HWCAP2 = 16, 26
"""Numbers of the processor's features in the auxiliary vector (``getauxval(3)``)."""

_VNNI = frozenset({"avx512_vnni", "avx_vnni"})


def cpu_fingerprint(cpuinfo: Path = CPUINFO) -> str:
    """Architecture, and the vector extensions that fix ONNX Runtime's weight layout.

    On x86-64 NCHWc blocks are 16 channels wide with AVX-512 and 8 without (MLAS, ``snchwc.cpp``).
    Wheels of ONNX Runtime for ARM have no such layout. Linux on 64-bit ARM always has ``asimd``; it
    is not looked up, because an emulator may show the flags of its host.
    """
    machine, flags = platform.machine(), _x86_flags(cpuinfo)
    features = ["asimd"] if machine == "aarch64" else [f for f in _LAYOUT_FEATURES if f in flags]
    return "+".join([machine, *features])


def processor_fingerprint(cpuinfo: Path = CPUINFO) -> str:
    """`cpu_fingerprint`, with ``vnni`` if the processor has it."""
    layout = cpu_fingerprint(cpuinfo)
    return with_vnni(layout) if _x86_flags(cpuinfo) & _VNNI else layout


def kernel_fingerprint(cpuinfo: Path = CPUINFO) -> str:
    """Features by which ONNX Runtime chooses kernels that pack weights, and size of large pages.

    Elsewhere than on x86-64 the features are the numbers that the kernel gives a process: an
    emulator sets them, and may show its host in ``/proc/cpuinfo``.
    """
    machine = platform.machine()
    if machine == _X86:
        flags = _x86_flags(cpuinfo)
        features = [feature for feature in _KERNEL_FEATURES if feature in flags]
    else:
        libc = ctypes.CDLL(None)
        libc.getauxval.restype = ctypes.c_ulong
        kinds = (_AT_HWCAP, _AT_HWCAP2)
        features = [f"{libc.getauxval(ctypes.c_ulong(kind)):x}" for kind in kinds]
    if mmap.PAGESIZE > WINDOW_ALIGNMENT:
        features.append(f"{mmap.PAGESIZE >> 10}k")
    return "+".join([machine, *features])


def with_vnni(layout: str) -> str:
    """The fingerprint of an engine of this layout with int8 weights of all 8 bits."""
    return f"{layout}+vnni"


def int8_saturates(cpuinfo: Path = CPUINFO) -> bool:
    """Whether two products of uint8 and int8 are added in 16 bits, where 255 * 127 * 2 overflows.

    x86 without VNNI does (``vpmaddubsw``); ONNX Runtime's quantisation has ``reduce_range`` for it.
    """
    flags = _x86_flags(cpuinfo)
    return "avx2" in flags and not flags & _VNNI


def _x86_flags(cpuinfo: Path) -> set[str]:
    if platform.machine() == _X86 and cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "flags":
                return set(value.split())
    return set()
