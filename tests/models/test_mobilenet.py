from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from swapnet.models.graph import Graph
from swapnet.models.mobilenet import mobilenet
from swapnet.models.weights import Weights

Noise = Callable[..., NDArray[np.float32]]
Infer = Callable[..., dict[str, NDArray[Any]]]


@pytest.fixture
def small(tmp_path: Path) -> Path:
    path = tmp_path / "small.onnx"
    with Graph(path, Weights()) as graph:
        image = graph.input("input", (1, 3, 16, 16))
        layout = ((1, 1, 1, 4), (2, 2, 3, 6))
        logits = mobilenet(graph, image, layout, stem=8, head=10, classes=7)
        graph.output("logits", logits, (1, 7))
        graph.save()
    return path


def test_small_mobilenet(small: Path, noise: Noise, infer: Infer) -> None:
    assert infer(small, input=noise(1, 3, 16, 16))["logits"].shape == (1, 7)
    found = {}
    for node in onnx.load(small).graph.node:
        if node.op_type == "Conv":
            listed = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
            shape = (listed["kernel_shape"][0], listed["strides"][0], listed.get("group", 1))
            found[node.input[1].removesuffix(".weight")] = shape
    assert found == {
        "features.0.0": (3, 2, 1),
        "features.1.conv.0.0": (3, 1, 8),
        "features.1.conv.1": (1, 1, 1),
        "features.2.conv.0.0": (1, 1, 1),
        "features.2.conv.1.0": (3, 2, 12),
        "features.2.conv.2": (1, 1, 1),
        "features.3.conv.0.0": (1, 1, 1),
        "features.3.conv.1.0": (3, 1, 18),
        "features.3.conv.2": (1, 1, 1),
        "features.4.0": (1, 1, 1),
    }


def test_normalisations_follow_in_order(small: Path) -> None:
    found = [
        node.input[1].removesuffix(".weight")
        for node in onnx.load(small, load_external_data=False).graph.node
        if node.op_type == "BatchNormalization"
    ]
    assert found == [
        "features.0.1",
        *("features.1.conv.0.1", "features.1.conv.2"),
        *("features.2.conv.0.1", "features.2.conv.1.1", "features.2.conv.3"),
        *("features.3.conv.0.1", "features.3.conv.1.1", "features.3.conv.3"),
        "features.4.1",
    ]


def test_adds_only_where_the_shape_stays(small: Path) -> None:
    nodes = onnx.load(small, load_external_data=False).graph.node
    adds = [index for index, node in enumerate(nodes) if node.op_type == "Add"]
    assert [nodes[index - 1].input[1] for index in adds] == ["features.3.conv.3.weight"]
