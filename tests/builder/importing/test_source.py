from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx.external_data_helper import set_external_data

from swapnet.builder.importing.source import file_sha256, open_source, random_reasons
from swapnet.errors import ModelError
from tests.helpers.zoo import TOYS, mlp


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "toy.onnx"


def test_reads_without_external_data(path: Path) -> None:
    toy = TOYS["external-unaligned"]
    toy.save(toy.make(), path)
    source = open_source(path)
    assert source.name == "toy"
    assert source.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert source.weights_bytes == 6 * 64 * 64 * 4
    assert not any(tensor.raw_data for tensor in source.proto.graph.initializer)


def test_counts_weights_in_constant_nodes(path: Path) -> None:
    onnx.save(TOYS["constant-nodes"].make(), path)
    assert open_source(path).weights_bytes == 6 * 64 * 64 * 4


@pytest.mark.parametrize(
    ("toy", "nbytes"),
    [("sparse", 2 * 64 * 64 * 4), ("loop", 4 * 64 * 64 * 4 + 9), ("branches", 4 * 64 * 64 * 4)],
)
def test_counts_sparse_weights_as_dense_and_those_in_bodies(
    path: Path, toy: str, nbytes: int
) -> None:
    onnx.save(TOYS[toy].make(), path)
    assert open_source(path).weights_bytes == nbytes


def test_misses_external_data_of_bodies(path: Path) -> None:
    model = TOYS["branches"].make()
    (node,) = (node for node in model.graph.node if node.op_type == "If")
    (tensor,) = next(a.g for a in node.attribute if a.g.initializer).initializer
    set_external_data(tensor, "toy.weights")
    tensor.ClearField("raw_data")
    onnx.save(model, path)
    with pytest.raises(ModelError, match="lacks weights"):
        open_source(path)


@pytest.mark.parametrize(
    ("kind", "nbytes"),
    [
        *((TensorProto.FLOAT, 12), (TensorProto.BFLOAT16, 6), (TensorProto.FLOAT8E5M2, 3)),
        *((TensorProto.INT4, 2), (TensorProto.UINT4, 2), (TensorProto.BOOL, 3)),
    ],
)
def test_counts_elements_of_every_width(path: Path, kind: int, nbytes: int) -> None:
    model = mlp()
    tensor = TensorProto(name="w", data_type=kind, dims=[3], raw_data=bytes(nbytes))
    model.graph.initializer.append(tensor)
    onnx.save(model, path, save_as_external_data=True, size_threshold=0)
    assert open_source(path).weights_bytes == 6 * 64 * 64 * 4 + nbytes


def test_hashes_in_pieces(path: Path) -> None:
    data = np.arange(3 << 18, dtype=np.int32).tobytes()
    path.write_bytes(data)
    assert file_sha256(path) == hashlib.sha256(data).hexdigest()


def test_random_operators_are_named_in_bodies_and_functions_too(path: Path) -> None:
    model = TOYS["branches"].make()
    onnx.save(model, path)
    assert not list(random_reasons(open_source(path)))
    (node,) = (node for node in model.graph.node if node.op_type == "If")
    body = next(a.g for a in node.attribute if a.HasField("g"))
    body.node.append(helper.make_node("RandomNormal", [], ["r"], "noise", shape=[1]))
    made = [
        helper.make_node("Bernoulli", ["x"], ["b"]),
        helper.make_node("Dropout", list("xrt"), ["d"]),
    ]
    opset = [helper.make_opsetid("", 17)]
    model.functions.append(helper.make_function("own", "f", ["x"], ["b"], made, opset))
    model.graph.node.append(helper.make_node("Dropout", ["x"], ["kept"]))
    onnx.save(model, path)
    (reason,) = random_reasons(open_source(path))
    assert reason.endswith("RandomNormal 'noise', Bernoulli 'b', Dropout 'd'")
    model.graph.node.append(helper.make_node("RandomUniformLike", ["x"], ["u"]))
    onnx.save(model, path)
    (reason,) = random_reasons(open_source(path))
    assert "and 1 more" in reason


def write_nothing(path: Path) -> None:
    del path


def write_folder(path: Path) -> None:
    path.mkdir()


def write_empty(path: Path) -> None:
    path.touch()


def write_noise(path: Path) -> None:
    path.write_bytes(np.random.default_rng(0).bytes(5000))


def write_truncated(path: Path) -> None:
    onnx.save(mlp(), path)
    path.write_bytes(path.read_bytes()[:-5000])


def write_no_operators(path: Path) -> None:
    onnx.save(helper.make_model(helper.make_graph([], "empty", [], [])), path)


def write_only_values(path: Path) -> None:
    value = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [2])
    onnx.save(helper.make_model(helper.make_graph([], "same", [value], [value])), path)


def write_no_outputs(path: Path) -> None:
    model = mlp()
    del model.graph.output[:]
    onnx.save(model, path)


def write_two_opsets(path: Path) -> None:
    model = mlp(opset=17)
    model.opset_import.append(helper.make_opsetid("ai.onnx", 11))
    onnx.save(model, path)


def write_opset(version: int) -> Callable[[Path], None]:
    return lambda path: onnx.save(mlp(opset=version), path)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (write_nothing, "there is no such file"),
        (write_folder, "it is a folder"),
        (write_empty, "0 bytes"),
        (write_noise, "5000 bytes"),
        (write_truncated, "is not a readable ONNX file"),
        (write_no_operators, "0 operators"),
        (write_only_values, "has no operators"),
        (write_no_outputs, "has no outputs"),
        (write_two_opsets, "they are 11 and 17"),
        (write_opset(6), "operator set 6"),
        (write_opset(99), "sets 7 to 26 are read"),
    ],
)
def test_refuses_with_a_reason(write: Callable[[Path], None], message: str, path: Path) -> None:
    write(path)
    with pytest.raises(ModelError, match=message) as caught:
        open_source(path)
    assert str(path) in caught.value.what
    assert caught.value.hint
    damaged = (write_empty, write_noise, write_truncated, write_no_operators)
    assert ("cut short" in caught.value.hint) == (write in damaged)


def test_an_operator_set_that_is_named_twice_alike_is_read(path: Path) -> None:
    model = mlp(opset=17)
    model.opset_import.append(helper.make_opsetid("ai.onnx", 17))
    onnx.save(model, path)
    assert open_source(path).proto == model


@pytest.mark.parametrize("length", [None, 0, 1000])
def test_names_the_tensor_whose_data_is_missing(path: Path, length: int | None) -> None:
    toy = TOYS["external-unaligned"]
    toy.save(toy.make(), path)
    weights = path.with_name("toy.weights")
    if length is None:
        weights.unlink()
    else:
        weights.write_bytes(weights.read_bytes()[:length])
    with pytest.raises(ModelError, match=r"lacks weights") as caught:
        open_source(path)
    assert (
        "'w0' is in toy.weights, which can't be read: No such file or directory"
        if length is None
        else f"'w0' ends at byte 16391 of toy.weights, which has {length} bytes"
    ) in caught.value.why


def test_weights_are_counted_with_each_operator_that_reads_them(tmp_path: Path) -> None:
    for name, again in (("used-twice", 2 * 64 * 64 * 4), ("tied-gemm", 0)):
        onnx.save(TOYS[name].make(), tmp_path / f"{name}.onnx")
        source = open_source(tmp_path / f"{name}.onnx")
        assert source.read_bytes == source.weights_bytes + again
