"""Models without the bytes of their weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.external_data_helper import load_external_data_for_model

from swapnet.builder.importing.source import open_source
from swapnet.builder.importing.stripped import stripped
from swapnet.builder.rewriting.optimise import Operators, save_optimised
from tests.helpers.zoo import mlp

WEIGHT = np.random.default_rng(0).standard_normal((128, 256)).astype(np.float32)


def raw(name: str) -> TensorProto:
    return numpy_helper.from_array(WEIGHT, name)


def packed(name: str) -> TensorProto:
    return helper.make_tensor(name, TensorProto.FLOAT, WEIGHT.shape, WEIGHT.ravel())


def initialiser(tensor: TensorProto) -> onnx.ModelProto:
    return _model([helper.make_node("MatMul", ["x", "w"], ["y"])], [tensor])


def constant(tensor: TensorProto) -> onnx.ModelProto:
    made = helper.make_node("Constant", [], ["w"], value=tensor)
    return _model([made, helper.make_node("MatMul", ["x", "w"], ["y"])], [])


def branch(tensor: TensorProto) -> onnx.ModelProto:
    output = [helper.make_tensor_value_info("z", TensorProto.FLOAT, None)]
    product = [helper.make_node("MatMul", ["x", "w"], ["z"])]
    other = helper.make_graph([helper.make_node("Neg", ["x"], ["z"])], "other", [], output)
    body = helper.make_graph(product, "body", [], output, [tensor])
    made = numpy_helper.from_array(np.array(True), "yes")
    return _model(
        [helper.make_node("If", ["yes"], ["y"], then_branch=body, else_branch=other)], [made]
    )


def _model(nodes: list[onnx.NodeProto], tensors: list[TensorProto]) -> onnx.ModelProto:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 128])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "g", [x], [y], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.fixture(params=[initialiser, constant, branch], ids=lambda make: make.__name__)
def make(request: pytest.FixtureRequest) -> Callable[[TensorProto], onnx.ModelProto]:
    found: Callable[[TensorProto], onnx.ModelProto] = request.param
    return found


@pytest.mark.parametrize("stored", [raw, packed])
def test_weights_stay_in_the_file(
    tmp_path: Path,
    make: Callable[[TensorProto], onnx.ModelProto],
    stored: Callable[[str], TensorProto],
) -> None:
    model, path = make(stored("w")), tmp_path / "m.onnx"
    onnx.save(model, path)
    found = stripped(path)
    assert found is not None
    assert not found.mixed
    assert len(found.model) < 2000
    assert open_source(path).weights_bytes == WEIGHT.nbytes + (make is branch)


def test_external_data_gives_the_same_model(tmp_path: Path) -> None:
    model, path = mlp(width=256), tmp_path / "m.onnx"
    onnx.save(model, path)
    proto = open_source(path).proto
    assert all(tensor.external_data for tensor in proto.graph.initializer)
    load_external_data_for_model(proto, str(tmp_path))
    for tensor in proto.graph.initializer:
        tensor.ClearField("data_location")
    assert proto == model


def test_onnx_runtime_optimises_a_model_behind_a_link(tmp_path: Path) -> None:
    (tmp_path / "blobs").mkdir()
    (tmp_path / "work").mkdir()
    onnx.save(initialiser(raw("w")), tmp_path / "blobs" / "1234")
    (tmp_path / "m.onnx").symlink_to(tmp_path / "blobs" / "1234")
    written = save_optimised(tmp_path / "m.onnx", tmp_path / "work", operators=Operators.STANDARD)
    (tensor,) = onnx.load(written).graph.initializer
    assert np.array_equal(numpy_helper.to_array(tensor), WEIGHT)


def test_weights_beside_a_model_that_has_some_inside(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(mlp(width=256), path, save_as_external_data=True, location="m.data", size_threshold=0)
    half = onnx.load(path, load_external_data=False)
    half.graph.initializer[0].CopyFrom(mlp(width=256).graph.initializer[0])
    onnx.save(half, path)
    found = stripped(path)
    assert found is not None
    assert found.mixed
    (tmp_path / "work").mkdir()
    written = save_optimised(path, tmp_path / "work", operators=Operators.STANDARD)
    read, given = (
        {t.name: numpy_helper.to_array(t).tobytes() for t in onnx.load(file).graph.initializer}
        for file in (written, path)
    )
    assert read == given


def test_other_files_are_left_to_others(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(mlp(width=64), path)
    assert stripped(path) is None
    whole = mlp(width=256).SerializeToString()
    for damaged in (whole[:-300000], bytes(1 << 17), b"\x3a\xff" * (1 << 16), whole + b"\xff"):
        path.write_bytes(damaged)
        assert stripped(path) is None
