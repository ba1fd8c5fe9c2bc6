"""Monodepth2 (Godard et al., 2019): image in, disparity of each pixel out.

ResNet-18 and a decoder that enlarges what it gives, with the parameter names of the original
checkpoints, of which both must be in one file: ``encoder.conv1.weight``, …,
``encoder.layer4.1.bn2.running_var``, and ``decoder.0.conv.conv.{weight, bias}``, …,
``decoder.9.conv.conv.bias``, ``decoder.10.conv.{weight, bias}``. The heads of smaller disparities,
which only training needs (``decoder.11`` to ``decoder.13``), are ignored, as is ``encoder.fc``.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from swapnet.models.classifier import SEEDED, Tensors
from swapnet.models.graph import Graph
from swapnet.models.images import photographs
from swapnet.models.resnet import RESNET18, ResNet, features
from swapnet.models.weights import Weights

__all__ = ["DECODER", "HEIGHT", "WIDTH", "make", "monodepth", "read", "samples"]

WIDTH, HEIGHT = 640, 192
"""Size of the input image in pixels."""

DECODER = (256, 128, 64, 32, 16)
"""Channels at strides 16, 8, 4, 2 and 1."""

_MEAN, _DEVIATION = 0.45, 0.225
# An ELU keeps 0.645 of the mean square of normal values.
_ELU_GAIN = 1 / math.sqrt(0.645)


def monodepth(
    graph: Graph,
    image: str,
    network: ResNet = RESNET18,
    *,
    width: int = 64,
    decoder: tuple[int, ...] = DECODER,
) -> str:
    """Write a Monodepth2, and return its disparities (1, 1, H, W), 0 far to 1 near.

    Parameters
    ----------
    image
        (1, 3, H, W), 0 to 1; H and W multiples of 32, at least 64.
    width
        Channels of the encoder's first layer.
    decoder
        Channels at strides 16, 8, 4, 2 and 1.
    """
    image = graph.node("Sub", image, graph.constant(_MEAN, "float32"))
    image = graph.node("Div", image, graph.constant(_DEVIATION, "float32"))
    *skips, (value, before) = features(graph, image, network, width=width, prefix="encoder.")
    for stage, after in enumerate(decoder):
        value = _block(graph, value, f"decoder.{2 * stage}.conv", (before, after))
        value, before = graph.double(value), after
        if skips:
            skip, more = skips.pop()
            value, before = graph.node("Concat", value, skip, axis=1), before + more
        value = _block(graph, value, f"decoder.{2 * stage + 1}.conv", (before, after))
        before = after
    value = _conv(graph, value, f"decoder.{2 * len(decoder)}", (before, 1), gain=1.0)
    return graph.node("Sigmoid", value)


def make(path: Path, weights: Path | None) -> int:
    """Write Monodepth2 to `path`, and return its number of parameters."""
    with Graph(path, Weights(weights, seed=2019)) as graph:
        image = graph.input("input", (1, 3, HEIGHT, WIDTH))
        graph.output("disparity", monodepth(graph, image), (1, 1, HEIGHT, WIDTH))
        return graph.save()


def samples() -> dict[str, NDArray[np.generic]]:
    """Return photographs as ``input``, (samples, 1, 3, 192, 640), float32, 0 to 1."""
    return {"input": photographs((WIDTH, HEIGHT))[:, None]}


def read(_: Tensors, outputs: Tensors) -> str:
    """Read ``disparity`` (N, 1, H, W): the nearest and the farthest pixel of each image."""
    lines = []
    for disparity in np.asarray(outputs["disparity"], np.float32)[:, 0]:
        (top, left), (bottom, right) = (
            np.unravel_index(index, disparity.shape)
            for index in (disparity.argmax(), disparity.argmin())
        )
        lines.append(
            f"nearest at ({left}, {top}), farthest at ({right}, {bottom}), "
            f"median disparity {np.median(disparity):.3f}"
        )
    return "\n".join([*lines, SEEDED])


def _block(graph: Graph, value: str, name: str, channels: tuple[int, int]) -> str:
    return graph.node("Elu", _conv(graph, value, name, channels, gain=_ELU_GAIN), alpha=1.0)


def _conv(graph: Graph, value: str, name: str, channels: tuple[int, int], *, gain: float) -> str:
    """Write a 3 x 3 convolution of an image that goes on beyond its edges as in a mirror."""
    pads = graph.constant([0, 0, 1, 1, 0, 0, 1, 1], "int64")
    value = graph.node("Pad", value, pads, mode="reflect")
    return graph.conv(value, f"{name}.conv", channels, 3, pads=(0, 0), bias=True, gain=gain)
