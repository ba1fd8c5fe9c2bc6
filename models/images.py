"""Real photographs as network inputs, out of the scikit-image package."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from swapnet.models.fetch import Wheel, member

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = [
    "PHOTOGRAPHS",
    "SKIMAGE",
    "Size",
    "fitted",
    "normalise",
    "photographs",
    "picture",
    "pixels",
]

Size = int | tuple[int, int]
"""Side of a square, or width and height, in pixels."""

PHOTOGRAPHS = (
    *("chelsea.png", "astronaut.png", "coffee.png"),
    *("rocket.jpg", "motorcycle_left.png", "color.png"),
)
"""Colour pictures: a cat, a person, a cup, a rocket, a motorcycle and hues."""

SKIMAGE = Wheel(
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

    with PIL.Image.open(member(SKIMAGE, f"skimage/data/{name}")) as image:
        return image.convert("RGB")


def pixels(image: Image, width: int, height: int) -> NDArray[np.float32]:
    """Resize an RGB picture, whatever its proportions, to (3, height, width), float32, 0 to 1."""
    import PIL.Image

    resized = image.resize((width, height), PIL.Image.Resampling.BILINEAR)
    return np.ascontiguousarray(
        np.asarray(resized, np.float32).transpose(2, 0, 1) / np.float32(255)
    )


def normalise(planes: NDArray[np.float32]) -> NDArray[np.float32]:
    """Centre and scale (3, H, W) planes of 0 to 1 by ImageNet's statistics."""
    scaled: NDArray[np.float32] = (planes - _MEAN) / _DEVIATION
    return scaled


def fitted(image: Image, size: Size) -> NDArray[np.float32]:
    """Crop an RGB picture in the middle to a size; as `pixels`."""
    from PIL import ImageOps

    width, height = size if isinstance(size, tuple) else (size, size)
    return pixels(ImageOps.fit(image, (width, height)), width, height)


def photographs(size: Size) -> NDArray[np.float32]:
    """Return all photographs, cropped in the middle: (N, 3, height, width), float32, 0 to 1."""
    return np.stack([fitted(picture(name), size) for name in PHOTOGRAPHS])
