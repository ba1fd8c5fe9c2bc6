"""What a compiled engine depends on in the machine that runs it."""

from __future__ import annotations

import platform
from pathlib import Path

__all__ = ["PORTABLE", "cpu_fingerprint"]

PORTABLE = "portable"
"""The fingerprint of an engine whose weights have no hardware layout."""

_LAYOUT_FEATURES = ("avx512f", "avx2", "avx", "asimd")


def cpu_fingerprint(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Architecture and the vector extensions that fix ONNX Runtime's weight layout.

    NCHWc blocks are 16 channels wide with AVX-512 and 8 without (MLAS, ``snchwc.cpp``).
    """
    flags: set[str] = set()
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() in ("flags", "Features"):
                flags.update(value.split())
                break
    return "+".join([platform.machine(), *(flag for flag in _LAYOUT_FEATURES if flag in flags)])
