"""Image classifiers with seeded weights: how they are written, fed and read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from swapnet.models.graph import Graph
from swapnet.models.images import normalise, photographs
from swapnet.models.weights import Weights

__all__ = ["SEEDED", "SIZE", "Tensors", "make", "samples", "softmax", "strongest"]

Tensors = Mapping[str, NDArray[np.generic]]
"""Inputs or outputs of a network by name."""

SIZE = 224
"""Side of the input image in pixels."""

SEEDED = "Seeded weights: repeatable numbers, not knowledge, unless real weights were given."
"""Note to a reading of an untrained network."""


def make(
    path: Path, weights: Path | None, network: Callable[[Graph, str], str], *, seed: int
) -> int:
    """Write a classifier to `path`, and return its number of parameters.

    `network` writes the operators for an image (1, 3, 224, 224), and returns the logits (1, 1000).
    """
    with Graph(path, Weights(weights, seed=seed)) as graph:
        image = graph.input("input", (1, 3, SIZE, SIZE))
        graph.output("logits", network(graph, image), (1, 1000))
        return graph.save()


def samples(size: int = SIZE) -> dict[str, NDArray[np.generic]]:
    """Return photographs as ``input``, (samples, 1, 3, size, size), float32, normalised."""
    return {"input": normalise(photographs(size))[:, None]}


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
