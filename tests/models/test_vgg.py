from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from swapnet.models.graph import Graph
from swapnet.models.vgg import vgg
from swapnet.models.weights import Weights


def test_small_vgg(
    tmp_path: Path,
    noise: Callable[..., NDArray[np.float32]],
    infer: Callable[..., dict[str, NDArray[Any]]],
) -> None:
    path = tmp_path / "vgg.onnx"
    with Graph(path, Weights()) as graph:
        image = graph.input("input", (1, 3, 8, 8))
        logits = vgg(graph, image, ((4, 1), (6, 2)), size=8, hidden=5, classes=7)
        graph.output("logits", logits, (1, 7))
        graph.save()
    names = [
        tensor.name
        for tensor in onnx.load(path).graph.initializer
        if tensor.name.endswith(".weight")
    ]
    assert names == [
        *("features.0.weight", "features.3.weight", "features.5.weight"),
        *("classifier.0.weight", "classifier.3.weight", "classifier.6.weight"),
    ]
    assert infer(path, input=noise(1, 3, 8, 8))["logits"].shape == (1, 7)
