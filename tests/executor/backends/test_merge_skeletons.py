from __future__ import annotations

import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swapnet.executor.backends.merge_skeletons import fields, merge_skeletons
from tests.helpers.engines import BuildToy

messages = st.builds(
    onnx.TensorProto,
    name=st.text(max_size=200),
    dims=st.lists(st.integers(-(1 << 63), (1 << 63) - 1), max_size=4),
    float_data=st.lists(st.floats(width=32), max_size=4),
    double_data=st.lists(st.floats(), max_size=4),
    raw_data=st.binary(max_size=300),
)


@settings(max_examples=50, deadline=None)
@given(messages)
def test_fields_are_the_message(message: onnx.TensorProto) -> None:
    data = message.SerializeToString()
    found = list(fields(data))
    assert b"".join(whole for _, _, whole in found) == data
    assert {number for number, _, _ in found} == {f.number for f, _ in message.ListFields()}
    assert message.raw_data in [payload for _, payload, _ in found] or not message.raw_data


@settings(max_examples=50, deadline=None)
@given(st.binary(min_size=1, max_size=200), st.data())
def test_truncation_is_found(raw: bytes, data: st.DataObject) -> None:
    message = onnx.TensorProto(raw_data=raw).SerializeToString()
    length = data.draw(st.integers(1, len(message) - 1))
    with pytest.raises(ValueError, match=r"missing|cut short"):
        list(fields(message[:length]))


def test_unknown_wire_types_are_refused() -> None:
    with pytest.raises(ValueError, match="wire type 3"):
        list(fields(b"\x0b"))


@pytest.mark.parametrize("name", ["ends", "used-twice", "wide-opset-7", "branches", "images"])
@pytest.mark.slow
def test_merged_skeletons_are_the_graph(engine: BuildToy, name: str) -> None:
    toy = engine(name)
    data = [(toy.folder / block.file).read_bytes() for block in toy.manifest.blocks]
    models = [onnx.load_from_string(skeleton) for skeleton in data]
    outputs = [tensor.name for tensor in toy.manifest.outputs]
    merged = onnx.load_from_string(merge_skeletons(data, outputs))
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
    merged = onnx.load_from_string(merge_skeletons([data], first.outputs))
    original = onnx.load_from_string(data)
    merged.graph.name = original.graph.name
    assert merged == original
