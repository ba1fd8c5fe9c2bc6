"""Text out of the steps of a recogniser (connectionist temporal classification)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["decode"]


def decode(probabilities: NDArray[np.float32], alphabet: tuple[str, ...]) -> tuple[str, float]:
    """Decode one line greedily: repeats collapse, then blanks drop.

    Parameters
    ----------
    probabilities
        (steps, classes), float32.
    alphabet
        Character of each class; class 0 is the blank.

    Returns
    -------
    tuple of str and float
        The text, and the mean probability of its characters (0 where there are none).
    """
    classes = probabilities.argmax(axis=1)
    changed = np.diff(classes, prepend=0) != 0
    kept = changed & (classes != 0)
    text = "".join(alphabet[index] for index in classes[kept])
    return text, float(probabilities.max(axis=1)[kept].mean()) if kept.any() else 0.0
