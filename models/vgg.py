"""VGG-19 (Simonyan and Zisserman, 2014), with torchvision's parameter names."""

from __future__ import annotations

from swapnet.models.classifier import SIZE
from swapnet.models.graph import Graph

__all__ = ["VGG19", "vgg"]

VGG19 = ((64, 2), (128, 2), (256, 4), (512, 4), (512, 4))
"""Channels and number of convolutions of each stage; a 2 x 2 maximum ends it."""


def vgg(
    graph: Graph,
    image: str,
    stages: tuple[tuple[int, int], ...] = VGG19,
    *,
    size: int = SIZE,
    hidden: int = 4096,
    classes: int = 1000,
) -> str:
    """Write a VGG for an image (1, 3, size, size), and return its logits (1, classes)."""
    value, before, layer = image, 3, 0
    for channels, convolutions in stages:
        for _ in range(convolutions):
            value = graph.conv(value, f"features.{layer}", (before, channels), 3, bias=True)
            value, before, layer = graph.node("Relu", value), channels, layer + 2
        value, layer = graph.node("MaxPool", value, kernel_shape=[2, 2], strides=[2, 2]), layer + 1
    value = graph.node("Flatten", value)
    features = before * (size >> len(stages)) ** 2
    value = graph.node("Relu", graph.gemm(value, "classifier.0", (features, hidden)))
    value = graph.node("Relu", graph.gemm(value, "classifier.3", (hidden, hidden)))
    return graph.gemm(value, "classifier.6", (hidden, classes), gain=1.0)
