"""A model that is optimised with stand-ins has the operators and the bytes of one that is not."""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest

from swapnet.builder.importing.graph import Graph
from swapnet.builder.rewriting import stand_ins
from swapnet.builder.rewriting.optimise import Operators, read_graph, save_optimised
from swapnet.builder.rewriting.stand_ins import StandIns
from tests.helpers.zoo import Net


def normalised(net: Net, value: str, channels: int) -> str:
    """A normalisation; rounding of its arithmetic shows in most elements."""
    parameters = [net.scales(channels) for _ in range(4)]
    return net("BatchNormalization", value, *parameters, epsilon=1e-3)


def residual(*, factor: bool = False) -> onnx.ModelProto:
    """Convolutions of every layout: few inputs, padded channels, groups, and two that are added."""
    net = Net()
    value = net("Conv", net.input("x", (1, 3, 16, 16)), net.weight(32, 3, 3, 3), net.weight(32))
    value = net("LeakyRelu", normalised(net, value, 32))
    for _ in range(3):
        inner = net("Conv", value, net.weight(32, 1, 3, 3), group=32, pads=[1] * 4)
        inner = net(
            "Clip", normalised(net, inner, 32), net.scales(), net.constant(np.array(6, np.float32))
        )
        inner = net("Conv", inner, net.weight(32, 32, 1, 1))
        other = net("Conv", value, net.weight(32, 32, 1, 1), net.weight(32))
        value = net("Relu", net("Add", normalised(net, inner, 32), normalised(net, other, 32)))
    for channels in (20, 20):
        value = net("Conv", value, net.weight(channels, 32, 3, 3))
        value = net("Conv", net("Sigmoid", value), net.weight(32, channels, 3, 3))
    if factor:
        value = net("Mul", value, net.weight(32, 1, 1))
    net.output(value)
    return net.model()


def content(graph: Graph) -> Counter[str]:
    """Operators by what they compute from what; names and the order of branches are left out."""
    known = {
        n: f"{c.shape} {hashlib.sha256(c.bytes().data).hexdigest()}"
        for n, c in graph.constants.items()
    }
    known |= {n: str(onnx.numpy_helper.to_array(t).tolist()) for n, t in graph.inline.items()}
    for node in graph.nodes:
        inputs = [known.get(name, name) for name in node.input]
        attributes = sorted(str(attribute) for attribute in node.attribute)
        made = hashlib.sha256(str((node.op_type, node.domain, inputs, attributes)).encode())
        known |= {name: f"{made.hexdigest()}.{i}" for i, name in enumerate(node.output)}
    return Counter(known[node.output[0]] for node in graph.nodes)


def optimised(path: Path, folder: Path, operators: Operators) -> Graph:
    folder.mkdir()
    return read_graph(save_optimised(path, folder, operators=operators), "toy")


@pytest.mark.parametrize("operators", Operators)
@pytest.mark.parametrize("external", [False, True])
def test_operators_and_bytes_are_those_of_whole_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, operators: Operators, external: bool
) -> None:
    model = residual()
    if not external:  # only large tensors of a model file are left out
        monkeypatch.setattr("swapnet.builder.importing.stripped._LEAST_BYTES", 64)
    onnx.save_model(model, tmp_path / "toy.onnx", save_as_external_data=external, size_threshold=0)
    whole = optimised(tmp_path / "toy.onnx", tmp_path / "whole", operators)
    restored: list[bool] = []
    restore = StandIns.restore

    def noted(self: StandIns) -> bool:
        restored.append(restore(self))
        return restored[-1]

    monkeypatch.setattr(StandIns, "restore", noted)
    monkeypatch.setattr(stand_ins, "LEAST_SAVED_BYTES", 0)
    graph = optimised(tmp_path / "toy.onnx", tmp_path / "own", operators)
    assert restored == [True]
    assert content(graph) == content(whole)
    if operators is Operators.STANDARD:  # ranges are kept by these names
        assert graph.values.keys() == whole.values.keys()
        assert {node.name for node in graph.nodes} == {node.name for node in whole.nodes}


def test_a_weight_that_is_computed_with_is_optimised_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ONNX Runtime multiplies a weight by the factor of each channel that follows it."""
    path = tmp_path / "toy.onnx"
    onnx.save_model(residual(factor=True), path, save_as_external_data=True, size_threshold=0)
    whole = optimised(path, tmp_path / "whole", Operators.HARDWARE)
    monkeypatch.setattr(stand_ins, "LEAST_SAVED_BYTES", 0)
    graph = optimised(path, tmp_path / "own", Operators.HARDWARE)
    assert content(graph) == content(whole)


def test_weights_that_a_caller_may_give_are_no_constants(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stand_ins, "LEAST_SAVED_BYTES", 0)
    model = residual()
    onnx.save_model(model, tmp_path / "toy.onnx", save_as_external_data=True, size_threshold=0)
    stripped = onnx.load_model(tmp_path / "toy.onnx", load_external_data=False)
    assert StandIns.of(stripped, tmp_path, tmp_path / "o.onnx") is not None
    stripped = onnx.load_model(tmp_path / "toy.onnx", load_external_data=False)
    stripped.graph.input.extend(
        onnx.helper.make_tensor_value_info(t.name, t.data_type, t.dims)
        for t in stripped.graph.initializer
    )
    made = StandIns.of(stripped, tmp_path, tmp_path / "o.onnx")
    assert made is not None
    assert not made.arrays
