"""PP-OCRv4 text recognition: a line of text as an image in, characters out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from swapnet.files import cache_folder
from swapnet.models import cache
from swapnet.models.classifier import Tensors
from swapnet.models.ctc import decode
from swapnet.models.fetch import Wheel
from swapnet.models.images import picture, pixels
from swapnet.models.published import Published

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

_RECOGNISER = Published(RAPIDOCR, RAPIDOCR.members[0])


def make(path: Path, weights: Path | None) -> int:
    """Copy the published model and its characters; as `Published.make`."""
    parameters = _RECOGNISER.make(path, weights)
    characters()
    return parameters


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


def characters() -> tuple[str, ...]:
    """Return the character of each class of the output; class 0 is the blank.

    They are in the metadata of the model, and are kept beside it as text, so that reading an output
    needs no ONNX library.
    """
    folder = cache.create(
        cache_folder() / f"ppocrv4_rec-characters-{RAPIDOCR.sha256[:16]}", _extract_characters
    )
    listed = (folder / "characters.txt").read_text(encoding="utf-8").split("\n")
    return ("", *listed, " ")


def read(_: Tensors, outputs: Tensors) -> str:
    """Read the output (N, steps, classes): the text of each line with its confidence."""
    (batch,) = outputs.values()
    alphabet = characters()
    decoded = (decode(np.asarray(line, np.float32), alphabet) for line in batch)
    return "\n".join(f'"{text}" ({confidence:.1%})' for text, confidence in decoded)


def _extract_characters(folder: Path) -> None:
    import onnx

    metadata = onnx.load(_RECOGNISER.file).metadata_props
    (listed,) = (entry.value for entry in metadata if entry.key == "character")
    (folder / "characters.txt").write_text(listed, encoding="utf-8", newline="\n")
