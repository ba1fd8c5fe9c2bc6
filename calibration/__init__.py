"""What must be measured of a device: storage, blocks, and how they disturb each other.

Names are imported when they are first used, so that a measuring process loads only what it runs.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from swapnet.calibration.profiles import calibrate, ensure_profile
    from swapnet.calibration.ranges.model import calibrate_model
    from swapnet.calibration.shapes import ensure_shapes

__all__ = ["calibrate", "calibrate_model", "ensure_profile", "ensure_shapes"]

_LAZY = {
    "calibrate": "swapnet.calibration.profiles",
    "calibrate_model": "swapnet.calibration.ranges.model",
    "ensure_profile": "swapnet.calibration.profiles",
    "ensure_shapes": "swapnet.calibration.shapes",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'swapnet.calibration' has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)
