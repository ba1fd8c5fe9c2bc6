"""ResNet-18, ResNet-101 (He et al., 2015) and FCN-ResNet101, with torchvision's parameter names.

The FCN keeps the last two stages at an eighth of the image by dilation, and has no auxiliary
head; the tensors of one in a file of weights are ignored.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from swapnet.models.classifier import SEEDED, Tensors
from swapnet.models.graph import Graph
from swapnet.models.weights import Weights

__all__ = [
    "FCN_SIZE",
    "RESNET18",
    "RESNET101",
    "ResNet",
    "fcn",
    "features",
    "make_fcn",
    "read_fcn",
    "resnet",
]

FCN_SIZE = 520
"""Side of the input image of the segmenter in pixels."""


@dataclass(frozen=True)
class ResNet:
    """Layout of a ResNet.

    Attributes
    ----------
    blocks
        Number of blocks of each stage.
    kernels
        Kernels of the convolutions of a block; the first of 3 takes the stride and the dilation.
    expansion
        Channels of a block's output over those inside it.
    """

    blocks: tuple[int, ...]
    kernels: tuple[int, ...]
    expansion: int


RESNET18 = ResNet((2, 2, 2, 2), kernels=(3, 3), expansion=1)
"""Basic blocks."""

RESNET101 = ResNet((3, 4, 23, 3), kernels=(1, 3, 1), expansion=4)
"""Bottleneck blocks."""

# Each block adds its branch to the running sum; a small branch keeps 33 of them of order 1.
_BRANCH_GAIN = 0.2
_STRIDED = ((1, 1), (2, 1), (2, 1), (2, 1))
_DILATED = ((1, 1), (2, 1), (1, 2), (1, 4))


def features(
    graph: Graph,
    image: str,
    network: ResNet,
    *,
    width: int = 64,
    prefix: str = "",
    layout: tuple[tuple[int, int], ...] = _STRIDED,
) -> tuple[tuple[str, int], ...]:
    """Write the stem and the stages of a ResNet; return the output of each, with its channels.

    Parameters
    ----------
    image
        (1, 3, H, W).
    width
        Channels of the stem.
    prefix
        Prefix of all parameter names.
    layout
        Stride and dilation of each stage.
    """
    value = graph.conv(image, f"{prefix}conv1", (3, width), 7, stride=2)
    value = graph.node("Relu", graph.batch_norm(value, f"{prefix}bn1", width))
    found = [(value, width)]
    value = graph.node("MaxPool", value, kernel_shape=[3, 3], pads=[1] * 4, strides=[2, 2])
    before, previous = width, 1
    for stage, (count, (stride, dilation)) in enumerate(zip(network.blocks, layout, strict=True)):
        middle = width << stage
        after = middle * network.expansion
        for block in range(count):
            first = block == 0
            value = _block(
                graph,
                value,
                f"{prefix}layer{stage + 1}.{block}",
                network.kernels,
                (before, *[middle] * (len(network.kernels) - 1), after),
                stride if first else 1,
                previous if first else dilation,
            )
            before = after
        previous = dilation
        found.append((value, before))
    return tuple(found)


def resnet(
    graph: Graph,
    image: str,
    network: ResNet,
    *,
    width: int = 64,
    classes: int = 1000,
) -> str:
    """Write a ResNet for an image (1, 3, H, W), and return its logits (1, classes)."""
    value, channels = features(graph, image, network, width=width)[-1]
    value = graph.node("Flatten", graph.node("GlobalAveragePool", value))
    return graph.gemm(value, "fc", (channels, classes), gain=1.0)


def fcn(
    graph: Graph,
    image: str,
    network: ResNet = RESNET101,
    *,
    width: int = 64,
    size: int = FCN_SIZE,
    classes: int = 21,
) -> str:
    """Write a FCN for an image (1, 3, size, size), and return (1, classes, size, size) scores."""
    stages = features(graph, image, network, width=width, prefix="backbone.", layout=_DILATED)
    value, channels = stages[-1]
    middle = channels // 4
    value = graph.conv(value, "classifier.0", (channels, middle), 3)
    value = graph.node("Relu", graph.batch_norm(value, "classifier.1", middle))
    value = graph.conv(value, "classifier.4", (middle, classes), 1, bias=True, gain=1.0)
    return graph.node(
        "Resize",
        value,
        "",
        "",
        graph.constant([1, classes, size, size], "int64"),
        mode="linear",
        coordinate_transformation_mode="pytorch_half_pixel",
    )


def make_fcn(path: Path, weights: Path | None) -> int:
    """Write FCN-ResNet101 to `path`, and return its number of parameters."""
    with Graph(path, Weights(weights, seed=520)) as graph:
        image = graph.input("input", (1, 3, FCN_SIZE, FCN_SIZE))
        graph.output("out", fcn(graph, image), (1, 21, FCN_SIZE, FCN_SIZE))
        return graph.save()


def read_fcn(_: Tensors, outputs: Tensors) -> str:
    """Read ``out`` (N, classes, H, W): the share of pixels of the commonest classes."""
    lines = []
    for scores in outputs["out"]:
        counts = np.bincount(scores.argmax(axis=0).ravel(), minlength=len(scores))
        best = np.argsort(-counts, kind="stable")[:5]
        shares = ", ".join(
            f"class {index} {counts[index] / counts.sum():.1%}" for index in best if counts[index]
        )
        lines.append(f"{shares} of the pixels")
    return "\n".join([*lines, SEEDED])


def _block(
    graph: Graph,
    value: str,
    name: str,
    kernels: tuple[int, ...],
    channels: tuple[int, ...],
    stride: int,
    dilation: int,
) -> str:
    """Write convolutions between these `channels`, and add them to the value they start from."""
    before, after = channels[0], channels[-1]
    branch = value
    for index, (kernel, pair) in enumerate(zip(kernels, pairwise(channels), strict=True)):
        branch = graph.node("Relu", branch) if index else branch
        strided = index == kernels.index(3)
        branch = graph.conv(
            branch,
            f"{name}.conv{index + 1}",
            pair,
            kernel,
            stride=stride if strided else 1,
            dilation=dilation if strided else 1,
        )
        gain = _BRANCH_GAIN if index == len(kernels) - 1 else 1.0
        branch = graph.batch_norm(branch, f"{name}.bn{index + 1}", pair[1], gain=gain)
    if stride > 1 or before != after:
        value = graph.conv(value, f"{name}.downsample.0", (before, after), 1, stride=stride)
        value = graph.batch_norm(value, f"{name}.downsample.1", after)
    return graph.node("Relu", graph.node("Add", branch, value))
