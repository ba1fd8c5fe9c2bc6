"""Readable scores of classes, shared by the networks that tell them apart."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

__all__ = ["SEEDED", "Tensors", "softmax", "strongest"]

Tensors = Mapping[str, NDArray[np.generic]]
"""Inputs or outputs of a network by name."""

SEEDED = "Seeded weights: repeatable numbers, not knowledge, unless real weights were given."
"""What a reading of an untrained network must say."""


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the probabilities along the last axis."""
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    shares: NDArray[np.float32] = powers / powers.sum(axis=-1, keepdims=True)
    return shares


def strongest(_: Tensors, outputs: Tensors) -> str:
    """Read ``logits`` (N, classes): the five most probable classes of each image."""
    lines = []
    for probabilities in softmax(np.asarray(outputs["logits"], np.float32)):
        best = np.argsort(-probabilities, kind="stable")[:5]
        lines.append(", ".join(f"class {index} {probabilities[index]:.1%}" for index in best))
    return "\n".join([*lines, SEEDED])
