from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto

import swapnet.builder.rewriting.optimise
from swapnet.builder.importing.graph import Graph
from swapnet.builder.importing.sessions import open_session, quiet_options
from swapnet.builder.importing.source import open_source
from swapnet.builder.rewriting.optimise import TYPES, WHOLE, Operators, optimise
from swapnet.builder.rewriting.products_as_convolutions import NCHWC, has_products, pack_products
from swapnet.builder.rewriting.slicing import slice_operators
from tests.helpers.zoo import TOYS, Net

Import = Callable[..., Graph]

BLOCK = 16
LARGE = (256, 256)
"""A weight that is just large enough."""


def kinds(graph: Graph) -> Counter[str]:
    return Counter(node.op_type for node in graph.nodes)


def packed(graph: Graph, folder: Path, block: int = BLOCK) -> Graph:
    return pack_products(graph, block, folder / "packed.data")


def product(rows: int = 4, shape: tuple[int, int] = LARGE) -> onnx.ModelProto:
    net = Net()
    net.output(net.dense(net.input("x", (rows, shape[0])), *shape))
    return net.model()


def several_rows(kind: str, **attributes: int) -> onnx.ModelProto:
    net = Net()
    net.output(net(kind, net.input("x", (256, 256)), net.weight(*LARGE), **attributes))
    return net.model()


def twice() -> onnx.ModelProto:
    net = Net()
    value, weight = net.input("x", (4, 256)), net.weight(*LARGE)
    net.output(net("MatMul", net("Tanh", net("MatMul", value, weight)), weight))
    return net.model()


def with_bias(*rows: int | str) -> onnx.ModelProto:
    """A product, what is added to it, and Relu."""
    net = Net()
    value = net.input("x", (*rows, 256))
    net.output(net("Relu", net("Add", net.dense(value, *LARGE), net.weight(256))))
    return net.model()


def half() -> onnx.ModelProto:
    net = Net()
    x = net.input("x", (4, 512), TensorProto.FLOAT16)
    net.output(net("MatMul", x, net.weight(512, 512, dtype=np.float16)))
    return net.model()


def images(rank: int) -> onnx.ModelProto:
    net = Net()
    net.output(net.dense(net.input("x", (*(2,) * (rank - 1), 256)), *LARGE))
    return net.model()


@pytest.mark.parametrize("model", [product(2), product(256), images(3)])
def test_products_of_few_rows_become_convolutions(
    import_model: Import, tmp_path: Path, model: onnx.ModelProto
) -> None:
    graph = import_model(model)
    done = packed(graph, tmp_path)
    assert has_products(graph, BLOCK)
    assert kinds(done)["MatMul"] == 0
    assert [node.op_type for node in done.nodes if node.domain == NCHWC] == [
        "ReorderInput",
        "Conv",
        "ReorderOutput",
    ]
    assert {name for node in done.nodes for name in node.output} | {"x"} == set(done.values)


@pytest.mark.parametrize(
    "model",
    [
        pytest.param(product(1), id="one row"),
        pytest.param(product(257), id="many rows"),
        pytest.param(images(4), id="rows along three axes"),
        pytest.param(product(4, (240, 256)), id="small"),
        pytest.param(product(4, (264, 256)), id="rows of the weight"),
        pytest.param(product(4, (256, 264)), id="columns of the weight"),
        pytest.param(several_rows("Gemm", transA=1), id="transposed operand"),
        pytest.param(several_rows("Gemm", alpha=2.0), id="scaled"),  # type: ignore[arg-type]
        pytest.param(twice(), id="weight of two"),
        pytest.param(half(), id="half precision"),
    ],
)
def test_other_products_stay(import_model: Import, tmp_path: Path, model: onnx.ModelProto) -> None:
    graph = import_model(model)
    assert packed(graph, tmp_path) is graph
    assert not list(tmp_path.glob("packed.data"))


def test_a_bias_of_another_shape_stays_outside(import_model: Import, tmp_path: Path) -> None:
    net = Net()
    x, y, bias = net.input("x", (4, 256)), net.input("y", (2, 4, 256)), net.weight(4, 256)
    net.output(net("Gemm", x, net.weight(*LARGE), bias), net("Add", net.dense(y, *LARGE), bias))
    left = kinds(packed(import_model(net.model()), tmp_path))
    assert (left["Gemm"], left["Add"], left["Conv"]) == (1, 1, 1)


@pytest.mark.parametrize("model", [with_bias(2), with_bias("batch", 2)])
def test_bias_and_relu_are_part_of_the_convolution(
    import_model: Import, tmp_path: Path, model: onnx.ModelProto
) -> None:
    done = packed(import_model(model), tmp_path)
    (node,) = (node for node in done.nodes if node.op_type == "Conv")
    assert not {"Add", "Relu", "Gemm", "MatMul"} & {*kinds(done)}
    assert len(node.input) == 3
    assert [a.s for a in node.attribute if a.name == "activation"] == [b"Relu"]


def test_what_is_an_output_stays_one(import_model: Import, tmp_path: Path) -> None:
    net = Net()
    value = net.dense(net.input("x", (2, 2, 256)), *LARGE)
    added = net("Add", value, net.weight(256))
    net.output(value, added, net("Relu", added))
    done = packed(import_model(net.model()), tmp_path)
    assert kinds(done) >= Counter(["Conv", "Add", "Relu"])


def test_products_of_one_value_share_what_they_read(import_model: Import, tmp_path: Path) -> None:
    net = Net()
    x = net.input("x", (2, 8, 256))
    rows = [net("Reshape", x, net.constant(np.array([16, 256]))) for _ in range(2)]
    products = [net("Gemm", row, net.weight(*LARGE), net.weight(256)) for row in rows]
    net.output(net.dense(x, *LARGE), *products)
    done = packed(import_model(net.model()), tmp_path)
    assert kinds(done)["Conv"] == 3
    assert kinds(done)["ReorderInput"] == 1
    assert not [node for node in done.nodes if node.op_type == "Reshape" and node.input[0] == "x"]


@pytest.mark.parametrize("block", [8, 16])
@pytest.mark.parametrize("transposed", [0, 1])
def test_blocks_lie_together(
    import_model: Import, tmp_path: Path, block: int, transposed: int
) -> None:
    net = Net()
    shape = (512, 256) if transposed else (256, 512)
    net.output(net("Gemm", net.input("x", (4, 256)), net.weight(*shape), transB=transposed))
    graph = import_model(net.model())
    (before,), (after,) = ([*g.constants.values()] for g in (graph, packed(graph, tmp_path, block)))
    plain = before.bytes().view(np.float32).reshape(shape)
    blocked = after.bytes().view(np.float32).reshape(512 // block, 256 // block, block, block)
    assert after.shape == (512, 256, 1, 1)
    assert after.nbytes == before.nbytes
    for i, o in np.random.default_rng(0).integers(0, (256, 512), (50, 2)):
        expected = plain[o, i] if transposed else plain[i, o]
        assert blocked[o // block, i // block, i % block, o % block] == expected


def test_the_domain_is_imported_once(import_model: Import, tmp_path: Path) -> None:
    graph = import_model(product())
    others = [entry for entry in graph.opset_imports if entry.domain != NCHWC]
    first = packed(replace(graph, opset_imports=others), tmp_path)
    again = packed(replace(graph, opset_imports=first.opset_imports), tmp_path)
    for done in (first, again):
        assert [entry.domain for entry in done.opset_imports].count(NCHWC) == 1


def test_slices_are_contiguous(import_model: Import, tmp_path: Path) -> None:
    done = packed(import_model(product(4, (256, 512))), tmp_path)
    parts = slice_operators(done, 128 << 10).constants.values()
    assert [part.shape for part in parts] == [(128, 256, 1, 1)] * 4
    (whole,) = done.constants.values()
    assert b"".join(part.bytes().tobytes() for part in parts) == whole.bytes().tobytes()


def test_nothing_is_packed_where_there_are_no_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(swapnet.builder.rewriting.optimise, "NCHWC", "com.example.none")
    onnx.save(product(), tmp_path / "toy.onnx")
    graph = optimise(open_source(tmp_path / "toy.onnx"), tmp_path, operators=Operators.HARDWARE)
    assert kinds(graph) == {"MatMul": 1}


@pytest.mark.parametrize("opset", [12, 17])
def test_the_saved_graph_is_the_packed_one(tmp_path: Path, opset: int) -> None:
    """Of any rows, though planned for a few."""
    if swapnet.builder.rewriting.optimise.channels_in_block() < 2:
        pytest.skip("no layout on this processor")
    toy, path = TOYS["transformer-dynamic"], tmp_path / "toy.onnx"
    model = toy.make() if opset == 17 else TOYS["transformer-opset-12"].make()
    toy.save(model, path)
    plain = optimise(open_source(path), tmp_path, operators=Operators.PORTABLE)
    shapes = {"x": (2, 12 if opset == 17 else 24, 256)}
    graph = optimise(open_source(path), tmp_path, operators=Operators.HARDWARE, shapes=shapes)
    assert kinds(graph)["Conv"] == 8
    stored = [sum(c.nbytes for c in g.constants.values()) for g in (plain, graph)]
    assert stored[0] == stored[1]
    session = open_session(tmp_path / TYPES, quiet_options(optimise=False))
    assert {v.name for v in (*session.get_inputs(), *session.get_outputs())} == set(graph.values)
    whole = open_session(tmp_path / WHOLE, quiet_options(optimise=False))
    original = onnxruntime.InferenceSession(path)
    names = [value.name for value in graph.outputs]
    assert [value.name for value in whole.get_outputs()] == names
    for rows in ((2, 12), (1, 1), (3, 40)) if opset == 17 else ((2, 24), (1, 24)):
        x = np.random.default_rng(0).standard_normal((*rows, 256), np.float32)
        feeds = {"x": x}
        outputs = [each.run(names, feeds) for each in (session, whole, original)]
        for found, same, expected in zip(*outputs, strict=True):
            np.testing.assert_array_equal(found, same)
            np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())
