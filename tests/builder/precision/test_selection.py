from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from swapnet.builder.precision.selection import (
    Channels,
    activation_names,
    channelled,
    check_excluded,
    quantisable,
    weighted,
)
from swapnet.errors import InputError
from tests.builder.precision.conftest import Normal, convolutions
from tests.helpers.zoo import Net


def test_axis_of_output_channels(normal: Normal) -> None:
    net = Net()
    image = net.input("image", (1, 4, 6, 6))
    x = net("Conv", image, net.weight(32, 4, 3, 3))
    x = net("ConvTranspose", x, net.weight(32, 8, 3, 3))
    y = net("ConvTranspose", x, net.weight(8, 4, 3, 3), group=2)
    z = net("MatMul", net("Reshape", y, net.constant(_shape(-1, 64))), net.weight(64, 24))
    net.output(net("Gemm", z, net.weight(48, 24), transB=1))
    axes = [(one.node.op_type, one.axis) for one in weighted(normal(net.model()).proto.graph)]
    assert axes == [
        ("Conv", 0),
        ("ConvTranspose", 1),
        ("ConvTranspose", None),
        ("MatMul", 1),
        ("Gemm", 0),
    ]


def test_channels_that_have_a_mean(normal: Normal) -> None:
    net = Net()
    x = net("Conv", net.input("x", (1, 4, 6, 6)), net.weight(8, 2, 3, 3), group=2)
    y = net("Reshape", net("ConvTranspose", x, net.weight(8, 4, 3, 3)), net.constant(_shape(-1, 6)))
    z = net("MatMul", y, net.weight(6, 24))
    stack = net("MatMul", net.input("stack", (3, 2, 5)), net.weight(3, 5, 4))
    turned = net("Gemm", net.input("turned", (7, 2)), net.weight(7, 3), transA=1)
    net.output(net("Gemm", z, net.weight(48, 24), transB=1), stack, turned)
    found = channelled(normal(net.model()).proto.graph)
    assert found == {"x": Channels(1, 4), y: Channels(-1, 6), z: Channels(-1, 24)}


def test_a_value_of_other_channels_for_another_reader_has_none(normal: Normal) -> None:
    net = Net()
    x = net.input("x", (1, 4, 6, 6))
    net.output(net("Conv", x, net.weight(8, 4, 3, 3)), net("MatMul", x, net.weight(6, 2)))
    assert channelled(normal(net.model()).proto.graph) == {}


def test_weights_that_others_read_stay(normal: Normal) -> None:
    net = Net()
    table = net.weight(64, 32)
    rows = net("Gather", table, net.input("rows", (4,), 7))
    net.output(net("MatMul", net("Transpose", rows, perm=[1, 0]), net.weight(4, 8)))
    net.output(net("MatMul", net.input("x", (2, 64)), table))
    (only,) = weighted(normal(net.model()).proto.graph)
    assert only.weight != table


def test_what_carries_convolutions_is_quantised(normal: Normal) -> None:
    graph = normal(convolutions()).proto.graph
    kinds = [node.op_type for node in quantisable(graph)]
    assert kinds == [node.op_type for node in graph.node]


def test_sums_after_products_stay_float(normal: Normal) -> None:
    net = Net()
    x = net.input("x", (4, 32))
    net.output(net("Relu", net("Add", x, net("MatMul", x, net.weight(32, 32)))))
    assert [n.op_type for n in quantisable(normal(net.model()).proto.graph)] == ["Gemm"]


def test_excluded_operators_carry_nothing(normal: Normal) -> None:
    graph = normal(convolutions()).proto.graph
    first = graph.node[0]
    chosen = quantisable(graph, exclude=[first.name])
    assert first.name not in {node.name for node in chosen}
    assert graph.node[1].name not in {node.name for node in chosen}
    assert activation_names(graph, exclude=[first.name])[0] != "image"
    assert activation_names(graph)[0] == "image"


def test_unknown_names_are_refused(normal: Normal) -> None:
    graph = normal(convolutions()).proto.graph
    check_excluded(graph, [graph.node[0].name])
    with pytest.raises(InputError, match="no operator 'nothing' to exclude"):
        check_excluded(graph, ["nothing"])


def _shape(*dims: int) -> NDArray[np.int64]:
    return np.array(dims, np.int64)
