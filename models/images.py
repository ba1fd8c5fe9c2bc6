"""Real photographs as network inputs, out of the scikit-image package."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from swapnet.models.fetch import Wheel, member

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["PHOTOGRAPHS", "normalise", "photographs", "picture", "pixels"]

PHOTOGRAPHS = (
    *("chelsea.png", "astronaut.png", "coffee.png"),
    *("rocket.jpg", "motorcycle_left.png", "color.png"),
)
"""Colour pictures: a cat, a person, a cup, a rocket, a motorcycle and hues."""

_SKIMAGE = Wheel(
    project="scikit-image",
    version="0.26.0",
    sha256="74aa5518ccea28121f57a95374581d3b979839adc25bb03f289b1bc9b99c58af",
    members=tuple(f"skimage/data/{name}" for name in (*PHOTOGRAPHS, "page.png", "text.png")),
)
# Means and deviations of ImageNet's red, green and blue, as torchvision uses them.
_MEAN = np.array([0.485, 0.456, 0.406], np.float32).reshape(3, 1, 1)
_DEVIATION = np.array([0.229, 0.224, 0.225], np.float32).reshape(3, 1, 1)


def picture(name: str) -> Image:
    """Return a picture by file name, in RGB."""
    import PIL.Image

    with PIL.Image.open(member(_SKIMAGE, f"skimage/data/{name}")) as image:
        return image.convert("RGB")


def pixels(image: Image, width: int, height: int) -> NDArray[np.float32]:
    """Resize an RGB picture without keeping its proportions.

    Returns
    -------
    numpy.ndarray
        (3, height, width), float32, 0 to 1.
    """
    import PIL.Image

    resized = image.resize((width, height), PIL.Image.Resampling.BILINEAR)
    return np.ascontiguousarray(
        np.asarray(resized, np.float32).transpose(2, 0, 1) / np.float32(255)
    )


def normalise(planes: NDArray[np.float32]) -> NDArray[np.float32]:
    """Centre and scale (3, H, W) planes of 0 to 1 by ImageNet's statistics."""
    scaled: NDArray[np.float32] = (planes - _MEAN) / _DEVIATION
    return scaled


def photographs(size: int) -> NDArray[np.float32]:
    """Return all photographs, cropped in the middle to squares.

    Returns
    -------
    numpy.ndarray
        (photographs, 3, size, size), float32, 0 to 1.
    """
    from PIL import ImageOps

    squares = (ImageOps.fit(picture(name), (size, size)) for name in PHOTOGRAPHS)
    return np.stack([pixels(square, size, size) for square in squares])
