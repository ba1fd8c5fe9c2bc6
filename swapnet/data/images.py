"""Pictures in a folder as inputs of a network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from swapnet.errors import InputError

__all__ = ["IMAGENET", "KINDS", "PREPROCESSINGS", "Preprocessing", "image_files", "read_image"]

KINDS = (".bmp", ".jpeg", ".jpg", ".png", ".webp")
"""Suffixes of the files that are read, in lower case."""


@dataclass(frozen=True)
class Preprocessing:
    """The way from a picture to an input: ``(pixel / divisor - mean) / deviation``.

    ``mean`` and ``deviation`` are by red, green and blue; a grey picture takes their averages.
    """

    divisor: float = 255.0
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    deviation: tuple[float, float, float] = (1.0, 1.0, 1.0)


IMAGENET = Preprocessing(mean=(0.485, 0.456, 0.406), deviation=(0.229, 0.224, 0.225))
"""ImageNet's means and deviations, as torchvision uses them."""

PREPROCESSINGS: Mapping[str, Preprocessing] = MappingProxyType(
    {
        "imagenet": IMAGENET,
        "unit": Preprocessing(),
        "inception": Preprocessing(mean=(0.5, 0.5, 0.5), deviation=(0.5, 0.5, 0.5)),
        "raw": Preprocessing(divisor=1.0),
    }
)
"""By name: ImageNet's statistics, 0 to 1, -1 to 1, and 0 to 255."""


def image_files(folder: Path) -> tuple[Path, ...]:
    """The pictures in a folder, by name; hidden files and inner folders are left out.

    Raises
    ------
    InputError
        The folder can't be read or has none, or Pillow is missing.
    """
    try:
        import PIL  # noqa: F401
    except ImportError as error:
        raise InputError(
            "reading images needs Pillow", why=str(error), hint="pip install 'swapnet-trt[models]'"
        ) from error
    try:
        names = sorted(folder.iterdir())
    except OSError as error:
        raise InputError(
            f"the folder {folder} can't be read",
            why=error.strerror or str(error),
            hint="give a folder of images that you may read",
        ) from error
    images = tuple(
        path
        for path in names
        if path.suffix.lower() in KINDS and not path.name.startswith(".") and path.is_file()
    )
    if not images:
        raise InputError(
            f"no images in {folder}",
            why=f"none of its {len(names)} entries is a file named *.npz, "
            f"{', '.join('*' + kind for kind in KINDS)}",
            hint="put images or .npz files right into it: folders inside are not searched",
        )
    return images


def read_image(
    path: Path, preprocessing: Preprocessing, channels: int, size: tuple[int, int]
) -> npt.NDArray[np.float32]:
    """A picture as input of a network: (channels, height, width), float32.

    The middle is cut out in the proportions of the input, and resized bicubically.

    Parameters
    ----------
    path
        File of 8 bits per channel.
    preprocessing
        Way to scale its pixels.
    channels
        3, or 1 for grey.
    size
        Height and width of the input, in pixels.

    Raises
    ------
    InputError
        The file can't be read, or has more than 8 bits per channel.
    """
    import PIL.Image
    from PIL import ImageOps

    height, width = size
    try:
        with PIL.Image.open(path) as image:
            if image.mode.startswith(("I", "F")):
                raise ValueError(f"its pixels have mode {image.mode}, not 8 bits per channel")
            coloured = image.convert("RGB" if channels == 3 else "L")
            fitted = ImageOps.fit(coloured, (width, height), PIL.Image.Resampling.BICUBIC)
            pixels = np.asarray(fitted, np.float32)
    except Exception as error:  # decoders raise all kinds
        raise InputError(
            f"the image {path} can't be read",
            why=str(error) or type(error).__name__,
            hint="replace it, or take it out of the folder",
        ) from error
    planes = pixels.reshape(*size, channels).transpose(2, 0, 1) / np.float32(preprocessing.divisor)
    means, deviations = (
        _planes(values, channels) for values in (preprocessing.mean, preprocessing.deviation)
    )
    return np.ascontiguousarray((planes - means) / deviations)


def _planes(statistics: tuple[float, float, float], channels: int) -> npt.NDArray[np.float32]:
    """One number for each channel: float32, (channels, 1, 1)."""
    values = statistics if channels == 3 else (sum(statistics) / 3,)
    return np.array(values, np.float32).reshape(channels, 1, 1)
