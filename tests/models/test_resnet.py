from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from swapnet.models.classifier import SEEDED
from swapnet.models.graph import Graph
from swapnet.models.resnet import RESNET18, RESNET101, fcn, read_fcn, resnet
from swapnet.models.weights import Weights

Noise = Callable[..., NDArray[np.float32]]
Infer = Callable[..., dict[str, NDArray[Any]]]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "resnet.onnx"


def convolutions(path: Path) -> dict[str, dict[str, Any]]:
    """Attributes of the convolutions by the name of their weight."""
    return {
        node.input[1].removesuffix(".weight"): {
            attribute.name: onnx.helper.get_attribute_value(attribute)
            for attribute in node.attribute
        }
        for node in onnx.load(path).graph.node
        if node.op_type == "Conv"
    }


def test_networks_are_named_after_their_depth() -> None:
    """Layers between image and logits: a stem, the blocks, and the classifier."""
    depths = [2 + sum(net.blocks) * len(net.kernels) for net in (RESNET18, RESNET101)]
    assert depths == [18, 101]


def test_small_bottleneck_resnet(path: Path, noise: Noise, infer: Infer) -> None:
    network = replace(RESNET101, blocks=(1, 2, 1, 1))
    with Graph(path, Weights()) as graph:
        image = graph.input("input", (1, 3, 64, 64))
        logits = resnet(graph, image, network, width=4, classes=7)
        graph.output("logits", logits, (1, 7))
        graph.save()
    assert infer(path, input=noise(1, 3, 64, 64))["logits"].shape == (1, 7)

    found = convolutions(path)
    assert len(found) == 1 + 5 * 3 + 4
    assert found["conv1"]["pads"] == [3] * 4
    assert found["layer2.0.conv2"]["strides"] == [2, 2]
    assert found["layer2.0.conv1"]["strides"] == [1, 1]
    assert found["layer2.0.downsample.0"]["strides"] == [2, 2]
    assert found["layer2.1.conv2"]["strides"] == [1, 1]
    assert "layer2.1.downsample.0" not in found


def test_small_basic_resnet(path: Path, noise: Noise, infer: Infer) -> None:
    network = replace(RESNET18, blocks=(1, 2, 1, 1))
    with Graph(path, Weights()) as graph:
        image = graph.input("input", (1, 3, 64, 64))
        logits = resnet(graph, image, network, width=4, classes=7)
        graph.output("logits", logits, (1, 7))
        graph.save()
    assert infer(path, input=noise(1, 3, 64, 64))["logits"].shape == (1, 7)

    found = convolutions(path)
    assert len(found) == 1 + 5 * 2 + 3
    assert "layer1.0.downsample.0" not in found
    assert found["layer2.0.conv1"]["strides"] == [2, 2]
    assert found["layer2.0.conv2"]["strides"] == [1, 1]
    assert found["layer2.0.downsample.0"]["strides"] == [2, 2]
    assert found["layer2.1.conv1"]["strides"] == [1, 1]
    assert {tuple(found[f"layer2.1.conv{index}"]["kernel_shape"]) for index in (1, 2)} == {(3, 3)}


def test_small_fcn(path: Path, noise: Noise, infer: Infer) -> None:
    network = replace(RESNET101, blocks=(1, 1, 2, 2))
    with Graph(path, Weights()) as graph:
        image = graph.input("input", (1, 3, 40, 40))
        scores = fcn(graph, image, network, width=4, size=40, classes=3)
        graph.output("out", scores, (1, 3, 40, 40))
        graph.save()
    assert infer(path, input=noise(1, 3, 40, 40))["out"].shape == (1, 3, 40, 40)

    found = {
        name: (attributes["strides"][0], attributes["dilations"][0], attributes["pads"][0])
        for name, attributes in convolutions(path).items()
    }
    assert found["backbone.layer2.0.conv2"] == (2, 1, 1)
    assert found["backbone.layer3.0.conv2"] == (1, 1, 1)
    assert found["backbone.layer3.1.conv2"] == (1, 2, 2)
    assert found["backbone.layer4.0.conv2"] == (1, 2, 2)
    assert found["backbone.layer4.1.conv2"] == (1, 4, 4)
    assert found["classifier.0"] == (1, 1, 1)


def test_reads_shares_of_pixels() -> None:
    scores = np.zeros((1, 3, 2, 2), np.float32)
    scores[0, 2] = [[1, 1], [1, -1]]
    assert read_fcn({}, {"out": scores}) == f"class 2 75.0%, class 0 25.0% of the pixels\n{SEEDED}"
