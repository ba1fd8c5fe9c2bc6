from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from swapnet.models.classifier import SEEDED
from swapnet.models.graph import Graph
from swapnet.models.weights import Weights
from swapnet.models.yolo import TINY_HEADS, Box, boxes, read, suppress, tiny, yolo

Outputs = dict[str, NDArray[np.float32]]


@pytest.fixture
def empty() -> Outputs:
    """Raw heads of two classes for a 64 x 64 image with nothing on it."""
    outputs = {
        f"stride{stride}": np.zeros((1, 21, 64 // stride, 64 // stride), np.float32)
        for stride in (32, 16, 8)
    }
    for head in outputs.values():
        head.reshape(3, 7, *head.shape[2:])[:, 4] = -20
    return outputs


def test_layers_are_numbered_as_in_darknet(
    tmp_path: Path,
    noise: Callable[..., NDArray[np.float32]],
    infer: Callable[..., dict[str, NDArray[Any]]],
) -> None:
    path = tmp_path / "yolo.onnx"
    with Graph(path, Weights()) as graph:
        heads = yolo(graph, graph.input("input", (1, 3, 64, 64)), width=2, classes=2)
        for stride, head in zip((32, 16, 8), heads, strict=True):
            graph.output(f"stride{stride}", head, (1, 21, 64 // stride, 64 // stride))
        graph.save()
    outputs = infer(path, input=noise(1, 3, 64, 64))
    assert [output.shape[2] for output in outputs.values()] == [2, 4, 8]

    names = [tensor.name for tensor in onnx.load(path).graph.initializer]
    convolutions = [name for name in names if "conv" in name and name.endswith(".weight")]
    assert len(convolutions) == 75
    assert convolutions[-1] == "module_list.105.conv_105.weight"
    assert [name for name in names if "conv" in name and name.endswith(".bias")] == [
        f"module_list.{layer}.conv_{layer}.bias" for layer in (81, 93, 105)
    ]
    assert {"module_list.5.batch_norm_5.running_var", "module_list.73.conv_73.weight"} <= set(names)


def test_layers_of_the_tiny_one_are_numbered_as_in_darknet(
    tmp_path: Path,
    noise: Callable[..., NDArray[np.float32]],
    infer: Callable[..., dict[str, NDArray[Any]]],
) -> None:
    path = tmp_path / "tiny.onnx"
    with Graph(path, Weights()) as graph:
        heads = tiny(graph, graph.input("input", (1, 3, 64, 64)), width=2, classes=2)
        for name, head in zip(TINY_HEADS, heads, strict=True):
            side = 64 // int(name.removeprefix("stride"))
            graph.output(name, head, (1, 21, side, side))
        graph.save()
    outputs = infer(path, input=noise(1, 3, 64, 64))
    assert [output.shape[2] for output in outputs.values()] == [2, 4]

    shapes = {tensor.name: tuple(tensor.dims) for tensor in onnx.load(path).graph.initializer}
    assert {name: shape[:3] for name, shape in shapes.items() if ".conv_" in name} == {
        "module_list.0.conv_0.weight": (2, 3, 3),
        "module_list.2.conv_2.weight": (4, 2, 3),
        "module_list.4.conv_4.weight": (8, 4, 3),
        "module_list.6.conv_6.weight": (16, 8, 3),
        "module_list.8.conv_8.weight": (32, 16, 3),
        "module_list.10.conv_10.weight": (64, 32, 3),
        "module_list.12.conv_12.weight": (128, 64, 3),
        "module_list.13.conv_13.weight": (32, 128, 1),
        "module_list.14.conv_14.weight": (64, 32, 3),
        "module_list.15.conv_15.weight": (21, 64, 1),
        "module_list.15.conv_15.bias": (21,),
        "module_list.18.conv_18.weight": (16, 32, 1),
        "module_list.21.conv_21.weight": (32, 48, 3),
        "module_list.22.conv_22.weight": (21, 32, 1),
        "module_list.22.conv_22.bias": (21,),
    }


def test_the_last_pool_of_the_tiny_one_keeps_the_size(tmp_path: Path) -> None:
    path = tmp_path / "tiny.onnx"
    with Graph(path, Weights()) as graph:
        coarse, _ = tiny(graph, graph.input("input", (1, 3, 32, 32)), width=1, classes=1)
        graph.output("stride32", coarse, (1, 18, 1, 1))
        graph.save()
    pools = [node for node in onnx.load(path).graph.node if node.op_type == "MaxPool"]
    found = [{a.name: list(a.ints) for a in node.attribute} for node in pools]
    halving = {"kernel_shape": [2, 2], "pads": [0] * 4, "strides": [2, 2]}
    keeping = {"kernel_shape": [2, 2], "pads": [0, 0, 1, 1], "strides": [1, 1]}
    assert found == [halving] * 5 + [keeping]


def test_decodes_a_box(empty: Outputs) -> None:
    raw = empty["stride16"].reshape(3, 7, 4, 4)
    raw[1, :, 2, 1] = [0, 0, np.log(0.5), 0, 20, -20, 20]
    box = boxes(empty)[0]
    assert box.label == 1
    assert box.score == pytest.approx(1)
    assert (box.left, box.top, box.right, box.bottom) == pytest.approx((8.5, 17.5, 39.5, 62.5))


def test_decodes_a_box_of_the_tiny_one(empty: Outputs) -> None:
    del empty["stride8"]
    raw = empty["stride16"].reshape(3, 7, 4, 4)
    raw[1, :, 2, 1] = [0, 0, np.log(2), 0, 20, -20, 20]
    box, *others = boxes(empty, heads=TINY_HEADS)
    assert (box.left, box.top, box.right, box.bottom) == pytest.approx((1, 26.5, 47, 53.5))
    assert len(others) == 3 * (2 * 2 + 4 * 4) - 1
    line = read({"input": np.zeros((1, 3, 64, 64), np.float32)}, empty, TINY_HEADS)
    assert line.startswith("class 1 100.0% from (1, 26) to (47, 54)")


def test_boxes_stay_inside_the_image(empty: Outputs) -> None:
    empty["stride32"].reshape(3, 7, 2, 2)[2, 2:5] = 1000
    box = boxes(empty)[0]
    assert (box.left, box.top, box.right, box.bottom) == (0, 0, 64, 64)


def test_suppresses_weaker_boxes_of_the_same_class() -> None:
    strong = Box(1, 0.9, 0, 0, 10, 10)
    near = Box(1, 0.8, 1, 1, 11, 11)
    other = Box(2, 0.7, 1, 1, 11, 11)
    apart = Box(1, 0.6, 10, 10, 20, 20)
    assert suppress([strong, near, other, apart]) == [strong, other, apart]
    assert suppress([strong, near], overlap=0.7) == [strong, near]


def test_reads_the_strongest_boxes(empty: Outputs) -> None:
    raw = empty["stride16"].reshape(3, 7, 4, 4)
    raw[1, :, 2, 1] = [0, 0, np.log(0.5), 0, 20, -20, 20]
    image = np.zeros((1, 3, 64, 64), np.float32)
    lines = read({"input": image}, empty).splitlines()
    assert lines[0] == "class 1 100.0% from (8, 18) to (40, 62)"
    assert len(lines) == 6
    assert lines[-1] == SEEDED
