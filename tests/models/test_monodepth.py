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
from swapnet.models.monodepth import monodepth, read
from swapnet.models.resnet import RESNET18
from swapnet.models.weights import Weights

Noise = Callable[..., NDArray[np.float32]]
Infer = Callable[..., dict[str, NDArray[Any]]]


@pytest.fixture
def small(tmp_path: Path) -> Path:
    path = tmp_path / "small.onnx"
    with Graph(path, Weights()) as graph:
        image = graph.input("input", (1, 3, 64, 96))
        network = replace(RESNET18, blocks=(1, 1, 1, 1))
        disparity = monodepth(graph, image, network, width=2, decoder=(10, 8, 6, 4, 3))
        graph.output("disparity", disparity, (1, 1, 64, 96))
        graph.save()
    return path


def test_small_monodepth(small: Path, noise: Noise, infer: Infer) -> None:
    disparity = infer(small, input=noise(1, 3, 64, 96))["disparity"]
    assert disparity.shape == (1, 1, 64, 96)
    assert 0 < disparity.min() < disparity.max() < 1


def test_the_decoder_is_named_and_shaped_as_the_original(small: Path) -> None:
    tensors = onnx.load(small).graph.initializer
    shapes = {t.name: tuple(t.dims) for t in tensors if t.name.endswith((".weight", ".bias"))}
    decoder = {name: shape for name, shape in shapes.items() if name.startswith("decoder.")}
    pairs = {
        **{0: (16, 10), 1: (10 + 8, 10), 2: (10, 8), 3: (8 + 4, 8), 4: (8, 6), 5: (6 + 2, 6)},
        **{6: (6, 4), 7: (4 + 2, 4), 8: (4, 3), 9: (3, 3)},
    }
    expected: dict[str, tuple[int, ...]] = {}
    for layer, (before, after) in pairs.items():
        expected[f"decoder.{layer}.conv.conv.weight"] = (after, before, 3, 3)
        expected[f"decoder.{layer}.conv.conv.bias"] = (after,)
    expected |= {"decoder.10.conv.weight": (1, 3, 3, 3), "decoder.10.conv.bias": (1,)}
    assert decoder == expected
    assert {name.split(".")[0] for name in shapes} == {"encoder", "decoder"}
    assert {"encoder.conv1.weight", "encoder.layer4.0.downsample.1.bias"} <= set(shapes)
    assert not [name for name in shapes if ".fc." in name]


def test_skips_join_what_has_their_size(small: Path) -> None:
    graph = onnx.shape_inference.infer_shapes(onnx.load(small)).graph
    shapes = {
        value.name: [dimension.dim_value for dimension in value.type.tensor_type.shape.dim]
        for value in graph.value_info
    }
    makers = {node.output[0]: node.op_type for node in graph.node}
    joins = [node for node in graph.node if node.op_type == "Concat"]
    assert [[makers[name] for name in node.input] for node in joins] == [["Resize", "Relu"]] * 4
    assert [shapes[node.input[1]][1:] for node in joins] == [
        *([8, 4, 6], [4, 8, 12], [2, 16, 24], [2, 32, 48]),
    ]


def test_edges_of_the_decoder_are_mirrors(small: Path) -> None:
    nodes = onnx.load(small).graph.node
    pads = [node for node in nodes if node.op_type == "Pad"]
    readers = {node.input[0]: node for node in nodes if node.op_type == "Conv"}
    assert len(pads) == 11
    for node in pads:
        assert [attribute.s for attribute in node.attribute] == [b"reflect"]
        convolution = readers[node.output[0]]
        assert convolution.input[1].startswith("decoder.")
        (found,) = (a for a in convolution.attribute if a.name == "pads")
        assert list(found.ints) == [0] * 4


def test_the_image_is_normalised_inside(tmp_path: Path, infer: Infer) -> None:
    path = tmp_path / "small.onnx"
    with Graph(path, Weights()) as graph:
        image = graph.input("input", (1, 3, 64, 64))
        network = replace(RESNET18, blocks=(1, 1, 1, 1))
        disparity = monodepth(graph, image, network, width=2, decoder=(2, 2, 2, 2, 2))
        graph.output("disparity", disparity, (1, 1, 64, 64))
        graph.save()
    model = onnx.load(path)
    (first,) = (node for node in model.graph.node if node.input[1:2] == ["encoder.conv1.weight"])
    model.graph.output.append(onnx.ValueInfoProto(name=first.input[0]))
    probe = path.with_name("probe.onnx")
    onnx.save(model, probe)
    scaled = infer(probe, input=np.full((1, 3, 64, 64), 0.9, np.float32))[first.input[0]]
    np.testing.assert_allclose(scaled, 2, rtol=1e-6)


def test_reads_the_nearest_and_the_farthest() -> None:
    disparity = np.full((2, 1, 3, 4), 0.5, np.float32)
    disparity[0, 0, 2, 1], disparity[0, 0, 0, 3] = 0.9, 0.1
    disparity[1, 0, 1] = 0.75
    lines = read({}, {"disparity": disparity}).splitlines()
    assert lines == [
        "nearest at (1, 2), farthest at (3, 0), median disparity 0.500",
        "nearest at (0, 1), farthest at (0, 0), median disparity 0.500",
        SEEDED,
    ]
