"""PP-OCRv4 text detection: a page as an image in, how likely each pixel is text out.

The output is read as differentiable binarisation wants it (Liao et al., 2019): pixels above a
threshold that touch each other are the shrunken core of a line; its upright box is grown back.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from swapnet.models.classifier import Tensors
from swapnet.models.images import picture, pixels
from swapnet.models.ppocr import RAPIDOCR
from swapnet.models.published import copy_published

__all__ = ["PAGES", "Region", "components", "make", "read", "regions", "samples"]

PAGES = (
    ("page.png", (0, 0, 384, 191)),
    ("text.png", (0, 0, 448, 172)),
    ("page.png", (0, 0, 384, 96)),
    ("page.png", (0, 96, 384, 191)),
    ("coffee.png", (0, 0, 600, 400)),
)
"""Pictures, and the part that is taken: left, top, right and bottom in pixels."""

_HEIGHT, _WIDTH = 384, 768
# Thresholds of a pixel and of a line, growth and smallest side, as the published package has them.
_PIXEL, _MEAN, _GROWTH, _SMALLEST = 0.3, 0.5, 1.6, 3


@dataclass(frozen=True)
class Region:
    """A line of text: its mean probability, and corners in pixels of the input."""

    score: float
    left: int
    top: int
    right: int
    bottom: int


make = partial(copy_published, RAPIDOCR, RAPIDOCR.members[1])


def samples() -> dict[str, NDArray[np.generic]]:
    """Return `PAGES` as ``x``, (samples, 1, 3, 384, 768), float32, -1 to 1.

    They are resized without keeping their proportions, as the published package does to reach
    multiples of 32; 0 to 255 becomes -1 to 1.
    """
    crops = (picture(name).crop(box) for name, box in PAGES)
    return {"x": np.stack([pixels(crop, _WIDTH, _HEIGHT) * 2 - 1 for crop in crops])[:, None]}


def components(mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Number the pixels of a mask (H, W) that touch each other, corners included.

    Returns
    -------
    numpy.ndarray
        (H, W), int64: 0 outside of the mask, and one number from 1 on for each component, in the
        order of their first pixels.
    """
    height, width = mask.shape
    runs = np.diff(np.pad(mask, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    rows, starts = np.nonzero(runs == 1)
    ends = np.nonzero(runs == -1)[1]
    bounds = np.searchsorted(rows, np.arange(height + 1))
    parents = list(range(len(rows)))

    def root(run: int) -> int:
        while parents[run] != run:
            parents[run] = parents[parents[run]]
            run = parents[run]
        return run

    for row in range(1, height):
        above, below = bounds[row - 1], bounds[row]
        while above < bounds[row] and below < bounds[row + 1]:
            if starts[above] <= ends[below] and starts[below] <= ends[above]:
                one, other = root(above), root(below)
                parents[max(one, other)] = min(one, other)
            if ends[above] < ends[below]:
                above += 1
            else:
                below += 1

    roots = np.array([root(run) for run in range(len(rows))], np.int64)
    numbers = np.unique(roots, return_inverse=True)[1] + 1
    labels = np.zeros((height, width), np.int64)
    labels[mask] = np.repeat(numbers, ends - starts)
    return labels


def regions(probabilities: NDArray[np.float32]) -> list[Region]:
    """Find the lines of text in a map (H, W) of probabilities, from top to bottom."""
    height, width = probabilities.shape
    labels = components(probabilities > _PIXEL)
    found = []
    for number in range(1, labels.max(initial=0) + 1):
        rows, columns = np.nonzero(labels == number)
        left, top, right, bottom = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
        score = probabilities[rows, columns].mean()
        wide, high = int(right - left), int(bottom - top)
        if score < _MEAN or min(wide, high) < _SMALLEST:
            continue
        growth = round(wide * high * _GROWTH / (2 * (wide + high)))
        found.append(
            Region(
                float(score),
                max(int(left) - growth, 0),
                max(int(top) - growth, 0),
                min(int(right) + growth, width),
                min(int(bottom) + growth, height),
            )
        )
    return sorted(found, key=lambda region: (region.top, region.left))


def read(_: Tensors, outputs: Tensors) -> str:
    """Read the output (N, 1, H, W): the lines of text on each page, in pixels of the input."""
    (batch,) = outputs.values()
    lines = []
    for (page,) in np.asarray(batch, np.float32):
        found = regions(page)
        lines.append(f"{len(found)} lines of text")
        lines += [
            f"  {region.score:.1%} from ({region.left}, {region.top}) "
            f"to ({region.right}, {region.bottom})"
            for region in found
        ]
    return "\n".join(lines)
