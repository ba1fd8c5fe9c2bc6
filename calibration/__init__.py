"""Measurements: delays of a device, ranges of a model's values, and the cost of lower precision.

Names are imported when they are first used, so that a measuring process loads only what it runs.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from swapnet.calibration.delays.measure import ensure_measured, measure
    from swapnet.calibration.ranges.calibrate import calibrate_model
    from swapnet.executor.shapes import ensure_shapes

__all__ = ["calibrate_model", "ensure_measured", "ensure_shapes", "measure"]

_LAZY = {
    "calibrate_model": "swapnet.calibration.ranges.calibrate",
    "ensure_measured": "swapnet.calibration.delays.measure",
    "ensure_shapes": "swapnet.executor.shapes",
    "measure": "swapnet.calibration.delays.measure",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'swapnet.calibration' has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)
