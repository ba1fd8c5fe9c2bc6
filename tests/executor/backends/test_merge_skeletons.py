from __future__ import annotations

import numpy as np
import onnx
import pytest

from swapnet.executor.backends.merge_skeletons import merge_skeletons, parts_of
from tests.helpers.engines import BuildToy


@pytest.mark.parametrize("name", ["ends", "used-twice", "wide-opset-7", "branches", "images"])
@pytest.mark.slow
def test_merged_skeletons_are_the_graph(engine: BuildToy, name: str) -> None:
    toy = engine(name)
    data = [(toy.folder / block.file).read_bytes() for block in toy.manifest.blocks]
    models = [onnx.load_from_string(skeleton) for skeleton in data]
    parts = [parts_of(skeleton) for skeleton in data]
    outputs = [tensor.name for tensor in toy.manifest.outputs]
    merged = onnx.load_from_string(merge_skeletons(parts, outputs))
    graphs = [model.graph for model in models]
    assert list(merged.graph.node) == [node for graph in graphs for node in graph.node]
    produced = {value.name for graph in graphs for value in graph.output}
    inputs = {v.name: v for graph in graphs for v in graph.input if v.name not in produced}
    assert list(merged.graph.input) == list(inputs.values())
    inline = {tensor.name: tensor for graph in graphs for tensor in graph.initializer}
    assert list(merged.graph.initializer) == list(inline.values())
    assert {v.name for v in merged.graph.output} == produced.intersection(outputs)
    assert merged.opset_import == models[0].opset_import
    assert merged.ir_version == models[0].ir_version


def test_one_skeleton_is_itself(engine: BuildToy) -> None:
    toy = engine("constant-nodes")
    (first, *_) = toy.manifest.blocks
    data = (toy.folder / first.file).read_bytes()
    merged = onnx.load_from_string(merge_skeletons([parts_of(data)], first.outputs))
    original = onnx.load_from_string(data)
    merged.graph.name = original.graph.name
    assert merged == original


def test_what_one_block_packs_is_no_input_of_another() -> None:
    """Two blocks use ``w``: one takes it as an input, the other has it as a constant."""
    weight = onnx.numpy_helper.from_array(np.ones((2, 2), np.float32), "w")
    value, *others = (
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [2, 2])
        for name in ("x", "y", "z", "w")
    )
    first = onnx.helper.make_graph(
        [onnx.helper.make_node("Add", ["x", "w"], ["y"])], "a", [value, others[2]], [others[0]]
    )
    second = onnx.helper.make_graph(
        [onnx.helper.make_node("MatMul", ["y", "w"], ["z"])],
        "b",
        [others[0]],
        [others[1]],
        [weight],
    )
    parts = [parts_of(onnx.helper.make_model(g).SerializeToString()) for g in (first, second)]
    merged = onnx.load_from_string(merge_skeletons(parts, ["z"])).graph
    assert [value.name for value in merged.input] == ["x"]
    assert list(merged.initializer) == [weight]
