from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from swapnet.models.ctc import decode


def line(*indices: int) -> NDArray[np.float32]:
    return np.eye(4, dtype=np.float32)[list(indices)] * np.float32(0.5)


def test_decodes_repeats_and_blanks() -> None:
    text, confidence = decode(line(0, 1, 1, 0, 1, 2, 2, 3, 0), ("", "a", "b", " "))
    assert text == "aab "
    assert confidence == 0.5


def test_decodes_an_empty_line() -> None:
    assert decode(line(0, 0), ("", "a", "b", " ")) == ("", 0.0)
