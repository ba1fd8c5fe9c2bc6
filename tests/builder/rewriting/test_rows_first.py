"""Rows are gathered before what computes their table; values stay the same to the bit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto

from swapnet.builder import build
from swapnet.builder.importing.graph import Graph
from swapnet.builder.rewriting.rows_first import gather_rows_first
from swapnet.executor import SwapExecutor
from swapnet.executor.planning.planner import smallest_budget
from tests.helpers.zoo import Net

Import = Callable[..., Graph]
Compute = Callable[[Net, str], str]

ROWS = COLUMNS = 1024
"""As many columns as rows: scales of columns could be mistaken for scales of rows."""

RANDOM = np.random.default_rng(5)


def scales(*shape: int) -> NDArray[np.float32]:
    return RANDOM.uniform(0.5, 1.5, shape).astype(np.float32)


def by_row(net: Net, table: str) -> str:
    floats = net("Cast", table, to=TensorProto.FLOAT)
    return net("Mul", floats, net.constant(scales(ROWS, 1)))


def by_column(net: Net, table: str) -> str:
    floats = net("Cast", table, to=TensorProto.FLOAT)
    return net("Mul", net.constant(scales(COLUMNS)), floats)


def with_zeros(net: Net, table: str) -> str:
    zeros = net.constant(RANDOM.integers(-9, 9, (ROWS, 1)).astype(np.float32))
    floats = net("Sub", net("Cast", table, to=TensorProto.FLOAT), zeros)
    return net("Div", floats, net.constant(scales(1, COLUMNS)))


def dequantised(net: Net, table: str) -> str:
    return net("DequantizeLinear", table, net.constant(np.array(0.25, np.float32)))


def by_axis(net: Net, table: str) -> str:
    return net("DequantizeLinear", table, net.constant(scales(ROWS)), axis=0)


def added_to_an_input(net: Net, table: str) -> str:
    floats = net("Cast", table, to=TensorProto.FLOAT)
    return net("Add", floats, net.input("bias", (1,)))


def model(compute: Compute, rank: int = 2, rows: int = ROWS) -> onnx.ModelProto:
    net = Net()
    indices = net.input("x", ("n", 3)[:rank], TensorProto.INT64)
    table = net.constant(RANDOM.integers(-127, 127, (rows, COLUMNS)).astype(np.int8))
    net.output(net("Gather", compute(net, table), indices))
    return net.model()


def tied(net: Net, table: str) -> str:
    """The table is multiplied too."""
    whole = by_row(net, table)
    net.output(net("MatMul", net.constant(scales(1, ROWS)), whole))
    return whole


def kinds(graph: Graph) -> Counter[str]:
    return Counter(node.op_type for node in graph.nodes)


@pytest.mark.slow
@pytest.mark.parametrize("compute", [by_row, by_column, with_zeros, dequantised])
def test_rows_are_computed_as_the_table_was(compute: Compute, tmp_path: Path) -> None:
    path = tmp_path / "table.onnx"
    onnx.save_model(model(compute), path)
    manifest = build(path, tmp_path / "engine", shapes={"x": (2, 3)})
    assert [block.lookup.row_nbytes for block in manifest.blocks if block.lookup] == [COLUMNS]
    smallest, _ = smallest_budget(manifest)
    x = np.array([[0, ROWS - 1, 7], [-1, 7, 3]])
    with SwapExecutor(tmp_path / "engine", smallest) as executor:
        (found,) = executor({"x": x}).values()
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    np.testing.assert_array_equal(found, session.run(None, {"x": x})[0])


def test_values_have_the_shapes_of_rows(import_model: Import) -> None:
    graph = gather_rows_first(import_model(model(by_row), {"x": (2, 3)}))
    assert kinds(graph) == {"Gather": 2, "Cast": 1, "Mul": 1}
    assert [value.planned for value in graph.values.values() if "/" in value.name] == [
        (2, 3, COLUMNS),
        (2, 3, COLUMNS),
        (2, 3, 1),
    ]
    assert all(graph.values[value.name] == value for value in graph.outputs)


def test_a_table_that_others_read_is_computed_for_them(import_model: Import) -> None:
    graph = gather_rows_first(import_model(model(tied), {"x": (2, 3)}))
    assert kinds(graph) == {"Gather": 2, "Cast": 2, "Mul": 2, "MatMul": 1}


@pytest.mark.parametrize("compute", [by_axis, added_to_an_input, lambda _, table: table])
def test_other_tables_stay(import_model: Import, compute: Compute) -> None:
    graph = import_model(model(compute), {"x": (2, 3)})
    assert gather_rows_first(graph) is graph


@pytest.mark.parametrize(("rank", "rows"), [(0, ROWS), (2, 16)])
def test_one_row_and_small_tables_stay(import_model: Import, rank: int, rows: int) -> None:
    """Without an axis of rows, what is the same for all of them would add it again."""
    graph = import_model(model(dequantised, rank, rows), {"x": (2, 3)[:rank]})
    assert gather_rows_first(graph) is graph
