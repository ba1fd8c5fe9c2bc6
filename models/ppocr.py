"""PP-OCRv4 text recognition: a line of text as an image in, characters out."""

from __future__ import annotations

from functools import cache, partial

import numpy as np
from numpy.typing import NDArray

from swapnet.models.classifier import Tensors
from swapnet.models.ctc import decode
from swapnet.models.fetch import Wheel, member
from swapnet.models.images import picture, pixels
from swapnet.models.published import copy_published

__all__ = ["LINES", "RAPIDOCR", "characters", "make", "read", "samples"]

LINES = (
    *((0, 4, 300, 36), (0, 46, 384, 68), (0, 66, 384, 86)),
    *((0, 84, 384, 104), (0, 101, 384, 121), (0, 116, 178, 138)),
)
"""Lines of text on ``page.png``: left, top, right and bottom in pixels."""

_HEIGHT, _WIDTH = 48, 960
_FOLDER = "rapidocr_onnxruntime/models"
RAPIDOCR = Wheel(
    project="rapidocr-onnxruntime",
    version="1.4.4",
    sha256="971d7d5f223a7a808662229df1ef69893809d8457d834e6373d3854bc1782cbf",
    members=tuple(f"{_FOLDER}/ch_PP-OCRv4_{kind}_infer.onnx" for kind in ("rec", "det")),
)
"""Publishes the recogniser and the detector."""

make = partial(copy_published, RAPIDOCR, RAPIDOCR.members[0])


def samples() -> dict[str, NDArray[np.generic]]:
    """Return lines of text as ``x``, (samples, 1, 3, 48, 960), float32, -1 to 1.

    A line keeps its proportions; what is left of the width is 0.
    """
    page = picture("page.png")
    lines = np.zeros((len(LINES), 1, 3, _HEIGHT, _WIDTH), np.float32)
    for line, box in zip(lines, LINES, strict=True):
        crop = page.crop(box)
        width = min(_WIDTH, round(_HEIGHT * crop.width / crop.height))
        line[0, :, :, :width] = pixels(crop, width, _HEIGHT) * 2 - 1
    return {"x": lines}


@cache
def characters() -> tuple[str, ...]:
    """Return the character of each class of the output; class 0 is the blank.

    They are in the metadata of the model.
    """
    import onnx

    metadata = onnx.load(member(RAPIDOCR, RAPIDOCR.members[0])).metadata_props
    (listed,) = (entry.value for entry in metadata if entry.key == "character")
    return ("", *listed.split("\n"), " ")


def read(_: Tensors, outputs: Tensors) -> str:
    """Read the output (N, steps, classes): the text of each line with its confidence."""
    (batch,) = outputs.values()
    alphabet = characters()
    decoded = (decode(np.asarray(line, np.float32), alphabet) for line in batch)
    return "\n".join(f'"{text}" ({confidence:.1%})' for text, confidence in decoded)
