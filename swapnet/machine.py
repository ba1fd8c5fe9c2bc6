"""What this machine has."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["memory_bytes"]

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
