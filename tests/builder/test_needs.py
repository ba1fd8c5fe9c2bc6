"""Memory that a build needs, before it starts."""

from __future__ import annotations

import os
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto
from onnx.external_data_helper import set_external_data

from swapnet.builder import needs
from swapnet.builder.importing.source import open_source
from swapnet.builder.needs import needed_bytes
from swapnet.builder.options import BuildOptions
from tests.helpers.zoo import Net

MIB = 1 << 20
OPTIONS = BuildOptions(backend="onnxruntime", max_block="8MiB")


@pytest.fixture(autouse=True)
def _no_memory_to_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(needs, "memory_to_measure_in_bytes", lambda: 0)


def needed(net: Net, folder: Path, options: BuildOptions = OPTIONS) -> int:
    """The estimate for a model whose weights are a hole in a file."""
    for tensor in net.weights:
        if tensor.dims and not tensor.raw_data:
            tensor.raw_data = b""
            set_external_data(tensor, "hole")
            tensor.ClearField("raw_data")
    (folder / "hole").touch()
    os.truncate(folder / "hole", 1 << 30)
    onnx.save(net.model(), folder / "m.onnx")
    return needed_bytes(open_source(folder / "m.onnx"), options)


def hole(net: Net, *dims: int) -> str:
    """Add a weight whose numbers nobody reads."""
    net.weights.append(TensorProto(name=f"hole{len(net.weights)}", data_type=1, dims=dims))
    return net.weights[-1].name


def products(*columns: int, rows: int = 4096) -> Net:
    net = Net()
    value = net.input("x", (1, rows))
    for count in columns:
        value = net("MatMul", value, hole(net, rows, count))
        rows = count
    net.output(value)
    return net


def test_it_grows_by_the_largest_weight(tmp_path: Path) -> None:
    small, large = (needed(products(columns), tmp_path) for columns in (20 << 10, 28 << 10))
    assert small % MIB == large % MIB == 0
    assert large - small == pytest.approx(128 * MIB, abs=2 * MIB)


def test_several_weights_need_no_more_than_the_largest(tmp_path: Path) -> None:
    one, four = (needed(products(*[10000] * count, rows=10000), tmp_path) for count in (1, 4))
    assert 0 <= four - one < 10000 * 10000


def test_weights_that_are_rearranged_count_together(tmp_path: Path) -> None:
    net = Net()
    value = net.input("x", (1, 2048, 4, 4))
    for _ in range(4):
        value = net("Conv", value, hole(net, 2048, 2048, 3, 3), pads=[1] * 4)
    net.output(value)
    assert needed(net, tmp_path) > 5 * 2048 * 2048 * 9 * 4


def test_values_count_at_the_planned_shapes(tmp_path: Path) -> None:
    def relu(**shapes: tuple[int, ...]) -> int:
        net = Net()
        net.output(net("Relu", net.input("x", ("n", 1024))))
        return needed(net, tmp_path, BuildOptions(backend="onnxruntime", shapes=shapes))

    assert relu(x=(64 << 10, 1024)) - relu() > 2 * (64 << 10) * 1024 * 4


def test_weights_are_held_while_delays_are_measured_where_they_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(needs, "memory_to_measure_in_bytes", lambda: 200 * MIB)
    net = products(*[4096] * 8)
    held = needed(net, tmp_path)
    monkeypatch.setattr(needs, "memory_to_measure_in_bytes", lambda: 150 * MIB)
    assert held - needed(net, tmp_path) == 100 * MIB
