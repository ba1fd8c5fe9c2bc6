"""Value ranges of activations, through the swap executor: what fills a calibration cache.

Names are imported when they are first used, so that the observing process loads only what it runs.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from swapnet.calibration.ranges.calibrate import calibrate_ranges

__all__ = ["calibrate_ranges"]

_LAZY = {
    "calibrate_ranges": "swapnet.calibration.ranges.calibrate",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'swapnet.calibration.ranges' has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)
