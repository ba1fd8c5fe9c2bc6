"""MobileNetV2 (Sandler et al., 2018), with torchvision's parameter names."""

from __future__ import annotations

from swapnet.models.graph import Graph

__all__ = ["MOBILENET_V2", "mobilenet"]

MOBILENET_V2 = (
    *((1, 1, 1, 16), (2, 2, 6, 24), (3, 2, 6, 32), (4, 2, 6, 64)),
    *((3, 1, 6, 96), (3, 2, 6, 160), (1, 1, 6, 320)),
)
"""Blocks, stride, expansion and channels of each stage."""

_BRANCH_GAIN = 0.2


def mobilenet(
    graph: Graph,
    image: str,
    stages: tuple[tuple[int, int, int, int], ...] = MOBILENET_V2,
    *,
    stem: int = 32,
    head: int = 1280,
    classes: int = 1000,
) -> str:
    """Write a MobileNetV2 for an image (1, 3, H, W), and return its logits (1, classes)."""
    value = graph.conv(image, "features.0.0", (3, stem), 3, stride=2)
    value = graph.relu6(graph.batch_norm(value, "features.0.1", stem))
    before, layer = stem, 1
    for blocks, stride, expansion, channels in stages:
        for block in range(blocks):
            value = _block(
                graph,
                value,
                f"features.{layer}.conv",
                (before, before * expansion, channels),
                1 if block else stride,
            )
            before, layer = channels, layer + 1
    value = graph.conv(value, f"features.{layer}.0", (before, head), 1)
    value = graph.relu6(graph.batch_norm(value, f"features.{layer}.1", head))
    value = graph.node("Flatten", graph.node("GlobalAveragePool", value))
    return graph.gemm(value, "classifier.1", (head, classes), gain=1.0)


def _block(graph: Graph, value: str, name: str, channels: tuple[int, int, int], stride: int) -> str:
    """Expand, filter each channel, and project; add where nothing changes its shape."""
    before, wide, after = channels
    branch, layer = value, 0
    if wide > before:
        branch = graph.conv(branch, f"{name}.0.0", (before, wide), 1)
        branch, layer = graph.relu6(graph.batch_norm(branch, f"{name}.0.1", wide)), 1
    branch = graph.conv(branch, f"{name}.{layer}.0", (wide, wide), 3, stride=stride, groups=wide)
    branch = graph.relu6(graph.batch_norm(branch, f"{name}.{layer}.1", wide))
    branch = graph.conv(branch, f"{name}.{layer + 1}", (wide, after), 1, gain=1.0)
    adds = stride == 1 and before == after
    gain = _BRANCH_GAIN if adds else 1.0
    branch = graph.batch_norm(branch, f"{name}.{layer + 2}", after, gain=gain)
    return graph.node("Add", branch, value) if adds else branch
