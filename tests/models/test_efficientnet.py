from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from swapnet.models import efficientnet
from swapnet.models.graph import Graph
from swapnet.models.weights import Weights

Noise = Callable[..., NDArray[np.float32]]
Infer = Callable[..., dict[str, NDArray[Any]]]

LAYOUT = ((1, 3, 1, 1, 32), (2, 5, 2, 2, 8))


@pytest.fixture
def small(tmp_path: Path) -> Path:
    path = tmp_path / "small.onnx"
    with Graph(path, Weights()) as graph:
        image = graph.input("input", (1, 3, 18, 18))
        logits = efficientnet.efficientnet(graph, image, LAYOUT, size=18, classes=7)
        graph.output("logits", logits, (1, 7))
        graph.save()
    return path


def test_pads_as_the_size_asks(small: Path, noise: Noise, infer: Infer) -> None:
    assert infer(small, input=noise(1, 3, 18, 18))["logits"].shape == (1, 7)
    found = {}
    for node in onnx.load(small, load_external_data=False).graph.node:
        if node.op_type == "Conv":
            listed = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
            found[node.input[1]] = (listed["strides"][0], listed["pads"], listed.get("group", 1))
    assert found["_conv_stem.weight"] == (2, [0, 0, 1, 1], 1)
    assert found["_blocks.0._depthwise_conv.weight"] == (1, [1, 1, 1, 1], 32)
    assert found["_blocks.1._depthwise_conv.weight"] == (2, [2, 2, 2, 2], 64)
    assert found["_blocks.2._project_conv.weight"] == (1, [0, 0, 0, 0], 1)


def test_adds_only_where_the_shape_stays(small: Path) -> None:
    graph = onnx.load(small, load_external_data=False).graph
    adds = [index for index, node in enumerate(graph.node) if node.op_type == "Add"]
    projections = [
        index for index, node in enumerate(graph.node) if "project" in "".join(node.input)
    ]
    assert len(adds) == 2
    assert adds == [projections[0] + 2, projections[2] + 2]


def test_reads_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(efficientnet, "class_names", lambda: ("cat", "dog", "cup", "car"))
    logits = np.log(np.array([[0.1, 0.6, 0.05, 0.25]], np.float32))
    expected = "dog (1) 60.0%, car (3) 25.0%, cat (0) 10.0%"
    assert efficientnet.read({}, {"logits": logits}) == expected


def test_samples_are_scaled_as_in_training(monkeypatch: pytest.MonkeyPatch) -> None:
    planes = np.stack([np.zeros((3, 2, 2)), np.ones((3, 2, 2))]).astype(np.float32)
    monkeypatch.setattr(efficientnet, "photographs", lambda _: planes)
    (array,) = efficientnet.samples().values()
    assert array.shape == (2, 1, 3, 2, 2)
    assert array.dtype == np.float32
    assert (array[0] == -127 / 128).all()
    assert (array[1] == 1).all()


def test_names_follow_the_order_of_the_classes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    contents = {
        "imagenet_synsets.txt": "n2\nn1\n",
        "imagenet_synset_to_lemma.txt": "n1\ttench, Tinca tinca\nn2\tgoldfish\nn3\tbenthos\n",
    }
    for name, content in contents.items():
        (tmp_path / name).write_text(content)
    monkeypatch.setattr(efficientnet, "member", lambda _, path: tmp_path / Path(path).name)
    assert efficientnet.class_names() == ("goldfish", "tench")


@pytest.mark.slow
def test_published_names_are_the_known_ones() -> None:
    named = efficientnet.class_names()
    assert len(named) == 1000
    assert (named[0], named[285], named[999]) == ("tench", "Egyptian cat", "toilet tissue")
