from __future__ import annotations

from collections.abc import Callable

import onnx
import pytest
from onnx import TensorProto

from swapnet.builder.importing.graph import Graph
from swapnet.builder.importing.lookup import is_lookup, table_parts
from swapnet.builder.rewriting.slicing import slice_operators
from tests.helpers.zoo import TOYS, Net

Import = Callable[[onnx.ModelProto], Graph]


@pytest.mark.parametrize(
    ("shape", "axis", "expected"),
    [
        *(((4096, 64), 0, True), ((4095, 64), 0, False)),
        *(((64, 4096), 1, False), ((512, 8, 64), 0, True), ((2, 1 << 19), 0, False)),
    ],
)
def test_rows_of_large_tables(
    import_model: Import, shape: tuple[int, ...], axis: int, expected: bool
) -> None:
    net = Net()
    indices = net.input("ids", (3,), TensorProto.INT64)
    net.output(net("Relu", net("Gather", net.weight(*shape), indices, axis=axis)))
    graph = import_model(net.model())
    assert [is_lookup(graph, node) for node in graph.nodes] == [expected, False]


def test_a_sliced_table_is_its_parts_in_order(import_model: Import) -> None:
    graph = import_model(TOYS["tied-gemm"].make())
    table = graph.nodes[0].input[0]
    assert table_parts(graph, table) == (table,)
    sliced = slice_operators(graph, 300 << 10)
    parts = [sliced.constants[name] for name in table_parts(sliced, table)]
    assert len(parts) > 3
    assert [part.start for part in parts] == [0, *(part.stop for part in parts[:-1])]
    assert parts[-1].stop == 4096
