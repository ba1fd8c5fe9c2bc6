from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from swapnet.builder.importing.source import PROTOBUF_LIMIT_BYTES, open_source
from swapnet.builder.precision.normalise import normalise, opset_of
from swapnet.errors import ModelError
from tests.builder.precision.conftest import Normal, convolutions, feeds_of, run
from tests.helpers.zoo import Net


def test_folds_and_computes_the_same(normal: Normal) -> None:
    model = convolutions()
    source = normal(model)
    kinds = {node.op_type for node in source.proto.graph.node}
    assert "BatchNormalization" not in kinds
    feeds = feeds_of(model)
    for name, wanted in run(model, feeds).items():
        np.testing.assert_allclose(run(source.path, feeds)[name], wanted, atol=1e-5)


def test_keeps_name_and_hash(normal: Normal, tmp_path: Path) -> None:
    source = normal(convolutions())
    original = open_source(tmp_path / "model.onnx")
    assert (source.name, source.sha256) == ("model", original.sha256)


def test_names_every_operator_differently(normal: Normal) -> None:
    model = convolutions()
    for node in model.graph.node:
        node.name = ""
    names = [node.name for node in normal(model).proto.graph.node]
    assert all(names)
    assert len(set(names)) == len(names)


def test_converts_old_operator_sets(normal: Normal) -> None:
    net = Net()
    x = net("MatMul", net.input("x", (2, 24)), net.weight(24, 40))
    net.output(net("Squeeze", net("Unsqueeze", x, axes=[0]), axes=[0]))
    model = net.model(11)
    source = normal(model)
    assert opset_of(source.proto) >= 13
    feeds = feeds_of(model)
    for name, wanted in run(model, feeds).items():
        np.testing.assert_allclose(run(source.path, feeds)[name], wanted, atol=1e-6)


def test_refuses_what_is_too_large_to_convert(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save_model(convolutions(11), path)
    source = replace(open_source(path), weights_bytes=PROTOBUF_LIMIT_BYTES)
    with pytest.raises(ModelError, match="operator set 11"):
        normalise(source, tmp_path)
