from __future__ import annotations

from collections.abc import Callable

import onnx
import pytest
from onnx import numpy_helper

from swapnet.builder.importing.graph import Graph, Value
from swapnet.builder.rewriting.writer import GraphWriter
from tests.helpers.zoo import mlp

Import = Callable[..., Graph]


@pytest.fixture
def writer(import_model: Import) -> GraphWriter:
    return GraphWriter(import_model(mlp()))


def test_names_that_are_taken_get_numbers(writer: GraphWriter) -> None:
    weight, value = next(iter(writer.constants)), writer.source.inputs[0].name
    assert writer.fresh("new") == "new"
    assert writer.fresh(value) == f"{value}.0"
    writer.values[f"{weight}.0"] = Value(f"{weight}.0", "float32", (), ())
    assert writer.fresh(weight) == f"{weight}.1"


def test_constants_of_one_key_are_written_once(writer: GraphWriter) -> None:
    before = len(writer.inline)
    keyed = [writer.integers("dims", [2, 3], key="a"), writer.integers("dims", [4], key="a")]
    others = [writer.integers("dims", [2, 3], key="b"), writer.integers("dims", [2, 3])]
    assert keyed == ["dims", "dims"]
    assert others == ["dims.0", "dims.1"]
    assert len(writer.inline) == before + 3
    assert numpy_helper.to_array(writer.inline["dims"]).tolist() == [2, 3]
    assert writer.inline["dims"].data_type == onnx.TensorProto.INT64


def test_the_source_stays_as_it_is(writer: GraphWriter) -> None:
    source, output = writer.source, Value("y", "float32", (1,), (1,))
    nodes, values = list(source.nodes), dict(source.values)
    writer.write("Relu", [source.inputs[0].name], output)
    axes = writer.integers("axes", [0])
    written = writer.graph()
    assert (source.nodes, source.values) == (nodes, values)
    assert axes not in source.inline
    assert [node.name for node in written.nodes] == ["y/relu"]
    assert written.values["y"] == output
    assert axes in written.inline
