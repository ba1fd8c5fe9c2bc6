from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from swapnet.models import published
from swapnet.models.fetch import Wheel
from swapnet.models.published import copy_published

TOY = Wheel("toy", "1.0", "0" * 64, ("toy.onnx",))


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    constants = [np.ones((2, 3), np.float32), np.array([1, 2])]
    nodes = [
        helper.make_node("Constant", [], [f"c{index}"], value=numpy_helper.from_array(values))
        for index, values in enumerate(constants)
    ]
    initializers = [
        numpy_helper.from_array(np.ones(4, np.float32), "weight"),
        numpy_helper.from_array(np.ones(8, np.int64), "shape"),
    ]
    output = helper.make_tensor_value_info("c0", 1, (2, 3))
    path = tmp_path / "published.onnx"
    onnx.save(helper.make_model(helper.make_graph(nodes, "toy", [], [output], initializers)), path)
    monkeypatch.setattr(published, "member", lambda *_: path)
    return path


def test_copies_and_counts_floats_of_both_kinds(source: Path, tmp_path: Path) -> None:
    path = tmp_path / "copy.onnx"
    assert copy_published(TOY, "toy.onnx", path) == 6 + 4
    assert path.read_bytes() == source.read_bytes()
