"""ddddocr's general recogniser: an image of letters in, characters out.

Convolutions and a bidirectional LSTM over the columns. It knows 8209 characters, no space among
them. The published file declares an output of two dimensions; it has three: (steps, 1, classes).
"""

from __future__ import annotations

import ast
from functools import partial

import numpy as np
from numpy.typing import NDArray

from swapnet.errors import ModelError
from swapnet.models.classifier import Tensors, softmax
from swapnet.models.ctc import decode
from swapnet.models.fetch import Wheel, member
from swapnet.models.images import picture
from swapnet.models.published import copy_published

__all__ = ["WORDS", "characters", "make", "read", "samples"]

WORDS = (
    *((0, 4, 300, 36), (0, 46, 170, 68), (0, 66, 170, 86)),
    *((0, 84, 170, 104), (0, 101, 170, 121), (0, 116, 178, 138)),
)
"""Words on ``page.png``: left, top, right and bottom in pixels."""

_HEIGHT, _WIDTH = 64, 640
_CHARSETS, _CHARSET = "ddddocr/charsets.py", "CHARSET_BETA"
_DDDDOCR = Wheel(
    project="ddddocr",
    version="1.6.1",
    sha256="c7c70f4ae2d0335440ae8b272eea48c9f6888ecef46785fe2311f0c97a133935",
    members=("ddddocr/common.onnx", _CHARSETS),
)

make = partial(copy_published, _DDDDOCR, _DDDDOCR.members[0])


def samples() -> dict[str, NDArray[np.generic]]:
    """Return `WORDS` as ``input1``, (samples, 1, 1, 64, 640), float32, 0 to 1.

    They are grey and keep their proportions; the last column fills what is left of the width.
    """
    from PIL.Image import Resampling

    page = picture("page.png")
    lines = []
    for box in WORDS:
        crop = page.crop(box)
        width = min(_WIDTH, int(crop.width * _HEIGHT / crop.height))
        grey = crop.resize((width, _HEIGHT), Resampling.LANCZOS).convert("L")
        line = np.asarray(grey, np.float32) / np.float32(255)
        lines.append(np.pad(line, ((0, 0), (0, _WIDTH - width)), mode="edge"))
    return {"input1": np.stack(lines)[:, None, None]}


def characters() -> tuple[str, ...]:
    """Return the character of each class of the output; class 0 is the blank.

    They are a literal in a module of the wheel, which is parsed and not run.

    Raises
    ------
    ModelError
        There is no such list.
    """
    source = ast.parse(member(_DDDDOCR, _CHARSETS).read_text(encoding="utf-8"))
    try:
        for statement in source.body:
            match statement:
                case ast.Assign(targets=[ast.Name(id=name)], value=listed) if name == _CHARSET:
                    return tuple(ast.literal_eval(listed))
        why = "the module has no list of that name"
    except ValueError as error:
        why = str(error)
    raise ModelError(
        f"{_CHARSETS} has no list of characters in {_CHARSET}",
        why=why,
        hint="report this with the version of swapnet",
    )


def read(_: Tensors, outputs: Tensors) -> str:
    """Read the output (steps, N, classes): the characters of each image with their confidence."""
    (steps,) = outputs.values()
    alphabet = characters()
    images = softmax(np.asarray(steps, np.float32)).transpose(1, 0, 2)
    decoded = (decode(image, alphabet) for image in images)
    return "\n".join(f'"{text}" ({confidence:.1%})' for text, confidence in decoded)
