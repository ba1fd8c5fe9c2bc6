"""YOLOv3 and YOLOv3-tiny for 80 classes (Redmon and Farhadi, 2018): image in, raw heads out.

Parameter names follow the layer numbers of Darknet's ``yolov3.cfg`` and ``yolov3-tiny.cfg``, as
its PyTorch ports have them: ``module_list.0.conv_0.weight``, ``module_list.0.batch_norm_0.{weight,
bias, running_mean, running_var}``, …, ``module_list.105.conv_105.{weight, bias}``, and
``module_list.22.conv_22`` last in the tiny one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from swapnet.models.classifier import SEEDED, Tensors
from swapnet.models.graph import Graph
from swapnet.models.images import photographs
from swapnet.models.weights import Weights

__all__ = [
    "HEADS",
    "SIZE",
    "TINY_HEADS",
    "Box",
    "Heads",
    "boxes",
    "make",
    "make_tiny",
    "read",
    "samples",
    "suppress",
    "tiny",
    "yolo",
]

SIZE = 416
"""Side of the input image in pixels."""

CLASSES = 80

Heads = Mapping[str, tuple[tuple[int, int], ...]]
"""Width and height in pixels of the three anchors of each output, the coarsest first."""

HEADS: Heads = {
    "stride32": ((116, 90), (156, 198), (373, 326)),
    "stride16": ((30, 61), (62, 45), (59, 119)),
    "stride8": ((10, 13), (16, 30), (33, 23)),
}
"""Heads of YOLOv3."""

TINY_HEADS: Heads = {
    "stride32": ((81, 82), (135, 169), (344, 319)),
    "stride16": ((10, 14), (23, 27), (37, 58)),
}
"""Heads of YOLOv3-tiny, as in its ``.cfg``.

Darknet's published weights were trained with (23, 27), (37, 58) and (81, 82) at stride 16.
"""

# Residual blocks of each halving of the image in Darknet-53.
_DARKNET53 = (1, 2, 8, 8, 4)
_BRANCH_GAIN = 0.1


@dataclass(frozen=True)
class Box:
    """One detection: class index, score from 0 to 1, and corners in pixels of the input."""

    label: int
    score: float
    left: float
    top: float
    right: float
    bottom: float


class _Darknet:
    """Writes layers and numbers them as Darknet's ``.cfg`` files do."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self._layer = 0

    def skip(self, layers: int) -> None:
        """Pass layers that have no parameters."""
        self._layer += layers

    def conv(
        self, value: str, channels: tuple[int, int], kernel: int, stride: int = 1, gain: float = 1.0
    ) -> str:
        """Convolution, batch normalisation, leaky ReLU."""
        name = f"module_list.{self._layer}"
        value = self.graph.conv(
            value, f"{name}.conv_{self._layer}", channels, kernel, stride=stride
        )
        value = self.graph.batch_norm(
            value, f"{name}.batch_norm_{self._layer}", channels[1], gain=gain
        )
        self._layer += 1
        return self.graph.node("LeakyRelu", value, alpha=0.1)

    def residual(self, value: str, channels: int) -> str:
        branch = self.conv(value, (channels, channels // 2), 1)
        branch = self.conv(branch, (channels // 2, channels), 3, gain=_BRANCH_GAIN)
        self.skip(1)
        return self.graph.node("Add", value, branch)

    def pool(self, value: str, stride: int = 2) -> str:
        """Maximum of 2 x 2; at stride 1, the last row and column see what there is."""
        self.skip(1)
        after = 2 - stride
        return self.graph.node(
            "MaxPool", value, kernel_shape=[2, 2], pads=[0, 0, after, after], strides=[stride] * 2
        )

    def neck(self, value: str, before: int, channels: int) -> str:
        """Five convolutions, alternately 1 x 1 and 3 x 3, down to `channels`."""
        value = self.conv(value, (before, channels), 1)
        for _ in range(2):
            value = self.conv(value, (channels, 2 * channels), 3)
            value = self.conv(value, (2 * channels, channels), 1)
        return value

    def head(self, value: str, channels: tuple[int, int], outputs: int) -> str:
        value = self.conv(value, channels, 3)
        name = f"module_list.{self._layer}.conv_{self._layer}"
        self.skip(2)
        return self.graph.conv(value, name, (channels[1], outputs), 1, bias=True, gain=1.0)

    def enlarge(self, value: str, channels: tuple[int, int], stage: str) -> str:
        """Go back to the neck, narrow it, double its height and width, and join a stage."""
        self.skip(1)
        value = self.graph.double(self.conv(value, channels, 1))
        self.skip(2)
        return self.graph.node("Concat", value, stage, axis=1)


def yolo(
    graph: Graph,
    image: str,
    blocks: tuple[int, ...] = _DARKNET53,
    *,
    width: int = 32,
    classes: int = CLASSES,
) -> tuple[str, str, str]:
    """Write a YOLOv3, and return its heads at strides 32, 16 and 8.

    Parameters
    ----------
    image
        (1, 3, H, W), 0 to 1; H and W multiples of 32.
    blocks
        Residual blocks at strides 2, 4, 8, 16 and 32.
    width
        Channels of the first layer.
    classes
        Number of classes; a head has ``3 * (5 + classes)`` channels.
    """
    darknet = _Darknet(graph)
    value, channels, stages = darknet.conv(image, (3, width), 3), width, []
    for count in blocks:
        value = darknet.conv(value, (channels, 2 * channels), 3, stride=2)
        channels *= 2
        for _ in range(count):
            value = darknet.residual(value, channels)
        stages.append(value)

    outputs = 3 * (5 + classes)
    neck = channels // 2
    value = darknet.neck(stages[4], channels, neck)
    heads = [darknet.head(value, (neck, 2 * neck), outputs)]
    for stage in (stages[3], stages[2]):
        value = darknet.enlarge(value, (neck, neck // 2), stage)
        value = darknet.neck(value, neck // 2 + neck, neck // 2)
        neck //= 2
        heads.append(darknet.head(value, (neck, 2 * neck), outputs))
    coarse, medium, fine = heads
    return coarse, medium, fine


def tiny(graph: Graph, image: str, *, width: int = 16, classes: int = CLASSES) -> tuple[str, str]:
    """Write a YOLOv3-tiny, and return its heads at strides 32 and 16; see `yolo`."""
    darknet = _Darknet(graph)
    value, channels, stages = darknet.conv(image, (3, width), 3), width, []
    for stride in (2, 2, 2, 2, 2, 1):
        value = darknet.pool(value, stride)
        value = darknet.conv(value, (channels, 2 * channels), 3)
        channels *= 2
        stages.append(value)

    outputs = 3 * (5 + classes)
    neck, joined = channels // 4, channels // 4
    value = darknet.conv(value, (channels, neck), 1)
    coarse = darknet.head(value, (neck, 2 * neck), outputs)
    value = darknet.enlarge(value, (neck, neck // 2), stages[3])
    return coarse, darknet.head(value, (neck // 2 + joined, neck), outputs)


def make(path: Path, weights: Path | None) -> int:
    """Write YOLOv3 to `path`, and return its number of parameters."""
    with Graph(path, Weights(weights, seed=416)) as graph:
        return _save(graph, HEADS, yolo(graph, _image(graph)))


def make_tiny(path: Path, weights: Path | None) -> int:
    """Write YOLOv3-tiny to `path`, and return its number of parameters."""
    with Graph(path, Weights(weights, seed=13)) as graph:
        return _save(graph, TINY_HEADS, tiny(graph, _image(graph)))


def samples() -> dict[str, NDArray[np.generic]]:
    """Return photographs as ``input``, (samples, 1, 3, 416, 416), float32, 0 to 1."""
    return {"input": photographs(SIZE)[:, None]}


def boxes(outputs: Tensors, image: int = 0, heads: Heads = HEADS) -> list[Box]:
    """Decode the raw heads of one image of the batch, the strongest box first.

    Parameters
    ----------
    outputs
        By the names of `heads`, each (N, 3 * (5 + classes), H, W) raw values: centre, size,
        objectness and class scores of three anchors.
    image
        Index in the batch.
    heads
        Heads of the network.
    """
    found = []
    for name, anchors in heads.items():
        stride = int(name.removeprefix("stride"))
        raw = np.asarray(outputs[name][image], np.float32)
        _, height, width = raw.shape
        raw = raw.reshape(3, -1, height, width)
        rows, columns = np.mgrid[:height, :width]
        centre = (_sigmoid(raw[:, :2]) + np.stack([columns, rows])) * stride
        half = np.exp(np.minimum(raw[:, 2:4], 10)) * np.reshape(anchors, (3, 2, 1, 1)) / 2
        scores = _sigmoid(raw[:, 5:])
        label = scores.argmax(axis=1)
        score = _sigmoid(raw[:, 4]) * scores.max(axis=1)
        corners = np.concatenate([centre - half, centre + half], axis=1)
        corners = corners.clip(0, np.tile([width, height], 2).reshape(4, 1, 1) * stride)
        found.append(np.concatenate([label[:, None], score[:, None], corners], axis=1))
    table = np.concatenate([head.transpose(0, 2, 3, 1).reshape(-1, 6) for head in found])
    table = table[np.argsort(-table[:, 1], kind="stable")]
    return [Box(int(label), *values) for label, *values in table.tolist()]


def suppress(candidates: list[Box], overlap: float = 0.45) -> list[Box]:
    """Drop each box that overlaps a stronger one of its class by more than `overlap`.

    `candidates` are sorted, the strongest first; `overlap` is intersection over union, 0 to 1.
    """
    kept: list[Box] = []
    for box in candidates:
        rivals = (other for other in kept if other.label == box.label)
        if all(_overlap(box, other) <= overlap for other in rivals):
            kept.append(box)
    return kept


def read(inputs: Tensors, outputs: Tensors, heads: Heads = HEADS) -> str:
    """Read the heads: the five strongest boxes of each image, in pixels of the input."""
    lines = []
    for image in range(len(inputs["input"])):
        kept = suppress(boxes(outputs, image, heads)[:300])[:5]
        lines += [
            f"class {box.label} {box.score:.1%} from ({box.left:.0f}, {box.top:.0f}) "
            f"to ({box.right:.0f}, {box.bottom:.0f})"
            for box in kept
        ]
    return "\n".join([*lines, SEEDED])


def _image(graph: Graph) -> str:
    return graph.input("input", (1, 3, SIZE, SIZE))


def _save(graph: Graph, names: Iterable[str], heads: tuple[str, ...]) -> int:
    for name, head in zip(names, heads, strict=True):
        side = SIZE // int(name.removeprefix("stride"))
        graph.output(name, head, (1, 3 * (5 + CLASSES), side, side))
    return graph.save()


def _sigmoid(values: NDArray[np.float32]) -> NDArray[np.float32]:
    probabilities: NDArray[np.float32] = 0.5 * (1 + np.tanh(0.5 * values))
    return probabilities


def _overlap(one: Box, other: Box) -> float:
    width = min(one.right, other.right) - max(one.left, other.left)
    height = min(one.bottom, other.bottom) - max(one.top, other.top)
    if width <= 0 or height <= 0:
        return 0.0
    areas = sum((box.right - box.left) * (box.bottom - box.top) for box in (one, other))
    return width * height / (areas - width * height)
