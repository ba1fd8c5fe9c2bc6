"""What must be measured of a device: storage, blocks, and how they disturb each other."""

from swapnet.calibration.calibrate import calibrate

__all__ = ["calibrate"]
