from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import DTypeLike
from onnx import TensorProto, helper, numpy_helper

import swapnet.builder.rewriting.convolutions_as_products
import swapnet.builder.rewriting.optimise
from swapnet.builder.importing.graph import Graph
from swapnet.builder.importing.sessions import open_session, quiet_options
from swapnet.builder.importing.source import open_source
from swapnet.builder.rewriting.convolutions_as_products import has_quantised, product_forms, wins
from swapnet.builder.rewriting.operator_times import Candidate, time_alternatives
from swapnet.builder.rewriting.optimise import TYPES, WHOLE, Operators, optimise
from swapnet.builder.rewriting.slicing import slice_operators
from swapnet.tensors import ONNX_TYPES, numpy_dtype
from tests.helpers.zoo import TOYS, Net

Import = Callable[..., Graph]

MICROSOFT = "com.microsoft"
IMAGE = (1, 9, 7, 64)
CHANNELS = 128


def faster(alternatives: Sequence[Candidate]) -> tuple[float, ...]:
    """Any product is faster; each runs."""
    assert all(np.isfinite(time_alternatives(alternatives, threads=1)))
    return 2.0, 1.0


def slower(alternatives: Sequence[Candidate]) -> tuple[float, ...]:
    assert len(alternatives) == 2
    return 1.0, 1.0


def kinds(graph: Graph) -> Counter[str]:
    return Counter(node.op_type for node in graph.nodes)


def convolved(
    *,
    size: Sequence[int] = (3, 3),
    image: Sequence[int | str] = IMAGE,
    source: int = TensorProto.UINT8,
    weight: DTypeLike = np.int8,
    zero: int = 0,
    scales: tuple[int, ...] = (CHANNELS,),
    zeros: tuple[int, ...] = (CHANNELS,),
    bias: bool = True,
    group: int = 1,
    domain: str = MICROSOFT,
    channels_last: int = 1,
    opset: int = 17,
    **attributes: Any,
) -> onnx.ModelProto:
    """One quantised convolution with channels last."""
    net = Net()
    inner = IMAGE[-1]
    kernel = net.weight(CHANNELS, inner // group, *size, dtype=weight)
    kind = np.uint8 if source == TensorProto.UINT8 else np.int8
    inputs = [
        net.input("x", image, source),
        net.scales(),
        net.constant(np.array(3, kind)),
        kernel,
        net.scales(*scales),
        net.constant(np.full(zeros, zero, weight)),
        net.constant(np.array(9, np.float32)),
        net.constant(np.array(100, kind)),
        *([net.below(9999, CHANNELS, dtype=np.int32)] if bias else []),
    ]
    attributes |= {"channels_last": channels_last} if domain else {}
    net.output(net("QLinearConv", *inputs, domain=domain, group=group, **attributes))
    return net.model(opset)


def gemm(transposed: int = 1, rows: int = 3, zero: int = 0) -> onnx.ModelProto:
    net = Net()
    shape = (256, 512) if transposed else (512, 256)
    inputs = [
        net.input("x", (rows, 512), TensorProto.UINT8),
        net.scales(),
        net.constant(np.array(3, np.uint8)),
        net.weight(*shape, dtype=np.int8),
        net.scales(256),
        net.constant(np.full(256, zero, np.int8)),
        net.below(9999, 256, dtype=np.int32),
        net.constant(np.array(9, np.float32)),
        net.constant(np.array(100, np.uint8)),
    ]
    net.output(net("QGemm", *inputs, transB=transposed, domain=MICROSOFT))
    return net.model()


def session(graph: Graph) -> onnxruntime.InferenceSession:
    tensors = list(graph.inline.values())
    for name, constant in graph.constants.items():
        array = constant.bytes().view(numpy_dtype(constant.dtype)).reshape(constant.shape)
        tensors.append(numpy_helper.from_array(array, name))
    inputs = [
        helper.make_tensor_value_info(v.name, ONNX_TYPES[v.dtype], v.shape) for v in graph.inputs
    ]
    outputs = [helper.make_empty_tensor_value_info(value.name) for value in graph.outputs]
    whole = helper.make_graph(list(graph.nodes), "graph", inputs, outputs, tensors)
    model = helper.make_model(whole, opset_imports=graph.opset_imports, ir_version=8)
    options = quiet_options(optimise=False)
    options.intra_op_num_threads = 1
    return open_session(model.SerializeToString(), options)


def assert_equal(before: Graph, after: Graph, *shapes: Sequence[int]) -> None:
    sessions = session(before), session(after)
    (given,) = before.inputs
    limits = np.iinfo(given.dtype)
    for seed, shape in enumerate(shapes or [given.planned]):
        generator = np.random.default_rng(seed)
        x = generator.integers(limits.min, limits.max, shape, given.dtype, endpoint=True)
        expected, found = (one.run(None, {"x": x})[0] for one in sessions)
        assert len(np.unique(expected)) > 10
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        pytest.param(convolved(size=(1, 1), weight=np.int8), "", id="small"),
        pytest.param(convolved(), "Concat Slice", id="three by three"),
        pytest.param(convolved(pads=[1, 1, 1, 1]), "Concat Pad Slice", id="padded"),
        pytest.param(convolved(pads=[2, 0, 1, 1], strides=[2, 3]), "Concat Pad Slice", id="uneven"),
        pytest.param(
            convolved(pads=[2, 2, 2, 2], dilations=[2, 2], strides=[2, 1]),
            "Concat Pad Slice",
            id="dilated",
        ),
        pytest.param(convolved(size=(2, 4)), "Concat Slice", id="two by four"),
        pytest.param(convolved(bias=False, pads=[1, 1, 1, 1]), "Concat Pad Slice", id="no bias"),
        pytest.param(convolved(weight=np.uint8, zero=77), "Concat Slice", id="unsigned"),
        pytest.param(convolved(zero=-5), "Concat Slice", id="zero point"),
        pytest.param(convolved(source=TensorProto.INT8), "Concat Slice", id="signed values"),
        pytest.param(convolved(scales=(), zeros=()), "Concat Slice", id="one scale"),
        pytest.param(convolved(scales=(1,), zeros=(), zero=4), "Concat Slice", id="a scale"),
        pytest.param(convolved(zeros=(), zero=9), "Concat Slice", id="one zero point"),
        pytest.param(convolved(zeros=(1,), zero=9), "Concat Slice", id="a zero point"),
        pytest.param(convolved(size=(9,), image=(2, 20, 64)), "Concat Slice", id="one axis"),
        pytest.param(gemm(), "", id="product"),
        pytest.param(gemm(zero=7, rows=1), "", id="product of a row"),
    ],
)
def test_products_give_the_same_integers(
    import_model: Import, tmp_path: Path, model: onnx.ModelProto, expected: str
) -> None:
    graph = import_model(model)
    done = product_forms(graph, tmp_path / "products.data", measure=faster)
    if not has_quantised(graph):
        assert done is graph
        return
    assert kinds(done)["QLinearConv"] == 0
    assert kinds(done)["QGemm"] == 1
    assert {"Concat", "Slice"} & {*kinds(done)} == {"Concat", "Slice"} & {*expected.split()}
    assert ("Pad" in kinds(done)) == ("Pad" in expected.split())
    assert_equal(graph, done)


@pytest.mark.parametrize(("strides", "pads"), [([1, 1], 0), ([2, 2], 0), ([2, 3], 1)])
def test_one_pixel_needs_one_slice_at_most(
    import_model: Import,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    strides: list[int],
    pads: int,
) -> None:
    monkeypatch.setattr(
        swapnet.builder.rewriting.convolutions_as_products, "_SMALLEST_BYTES", 1 << 10
    )
    graph = import_model(convolved(size=(1, 1), strides=strides, pads=[pads] * 4))
    done = product_forms(graph, tmp_path / "products.data", measure=faster)
    extra = Counter(Slice=int(strides != [1, 1]), Pad=pads)
    assert kinds(done) == Counter(["Reshape", "QGemm", "Reshape"]) + extra
    assert_equal(graph, done)


@pytest.mark.parametrize(
    "image", [("n", 9, 7, 64), (1, "h", 7, 64), (1, "h", "w", 64), ("n", "h", "w", 64)]
)
@pytest.mark.parametrize("size", [1, 3])
def test_any_shape_that_a_model_takes(
    import_model: Import,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    image: tuple[int | str, ...],
    size: int,
) -> None:
    monkeypatch.setattr(
        swapnet.builder.rewriting.convolutions_as_products, "_SMALLEST_BYTES", 1 << 10
    )
    around: dict[str, Any] = {"pads": [size // 2] * 4, "strides": [size - 1 or 1] * 2}
    graph = import_model(convolved(image=image, size=(size, size), **around), {"x": IMAGE})
    done = product_forms(graph, tmp_path / "products.data", measure=faster)
    others = {"n": 3, "h": 12, "w": 16}
    assert_equal(graph, done, IMAGE, [others[d] if isinstance(d, str) else d for d in image])
    assert all(
        [dim for dim in value.shape if isinstance(dim, int)]
        == [n for n, dim in zip(value.planned, value.shape, strict=True) if isinstance(dim, int)]
        for value in done.values.values()
    )


@pytest.mark.parametrize(
    "model",
    [
        pytest.param(convolved(group=2), id="groups"),
        pytest.param(convolved(domain="", image=(1, 64, 9, 9)), id="of ONNX"),
        pytest.param(convolved(channels_last=0, image=(1, 64, 9, 9)), id="channels first"),
        pytest.param(convolved(auto_pad="SAME_UPPER"), id="automatic padding"),
        pytest.param(convolved(opset=12), id="old operator set"),
        pytest.param(gemm(transposed=0), id="product"),
        pytest.param(TOYS["images"].make(), id="floats"),
    ],
)
def test_others_stay(import_model: Import, tmp_path: Path, model: onnx.ModelProto) -> None:
    graph = import_model(model)
    assert product_forms(graph, tmp_path / "products.data", measure=faster) is graph
    assert not list(tmp_path.glob("products.data"))


def test_a_weight_of_two_stays(import_model: Import, tmp_path: Path) -> None:
    model = convolved(size=(3, 3), pads=[1, 1, 1, 1])
    twin = model.graph.node.add()
    twin.CopyFrom(model.graph.node[0])
    twin.name, twin.output[0] = "twin", "twin"
    twin.input[6] = twin.input[1]
    model.graph.output.add().name = "twin"
    graph = import_model(model)
    assert kinds(graph)["QLinearConv"] == 2
    assert not has_quantised(graph)
    assert product_forms(graph, tmp_path / "products.data", measure=faster) is graph


def test_what_is_not_faster_stays(import_model: Import, tmp_path: Path) -> None:
    graph = import_model(convolved())
    assert product_forms(graph, tmp_path / "products.data", measure=slower) is graph


@pytest.mark.parametrize(
    ("times", "chosen"), [((1.0, 1.0), False), ((1.2, 1.0), True), ((1.05, 1.0), False)]
)
def test_a_product_must_be_clearly_faster(times: tuple[float, float], *, chosen: bool) -> None:
    assert wins(times) == chosen
    assert wins((float("inf"), 1.0))
    assert not wins((1.0, float("inf")))


def test_values_and_weights_are_those_of_the_new_graph(
    import_model: Import, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In pieces, the weight is stored once, by position in the kernel."""
    monkeypatch.setattr(swapnet.builder.rewriting.convolutions_as_products, "_PIECE_BYTES", 1000)
    graph = import_model(convolved(pads=[1, 1, 1, 1]))
    done = product_forms(graph, tmp_path / "products.data", measure=faster)
    produced = {name for node in done.nodes for name in node.output}
    assert produced <= set(done.values)
    large = [c for c in done.constants.values() if c.dtype == "int8"]
    (before,) = (c for c in graph.constants.values() if c.dtype == "int8")
    (after,) = large
    assert after.shape == (9 * IMAGE[-1], CHANNELS)
    whole = before.bytes().reshape(CHANNELS, IMAGE[-1], 9)
    expected = whole.transpose(2, 1, 0).reshape(after.shape)
    np.testing.assert_array_equal(after.bytes().reshape(after.shape), expected)
    assert (tmp_path / "products.data").stat().st_size == before.nbytes


@pytest.mark.parametrize("model", [gemm(), convolved(pads=[1, 1, 1, 1], zero=3)])
def test_columns_are_sliced(import_model: Import, tmp_path: Path, model: onnx.ModelProto) -> None:
    """Scales, zero points and biases of each column go with it."""
    graph = import_model(model)
    done = product_forms(graph, tmp_path / "products.data", measure=faster)
    sliced = slice_operators(done, 32 << 10)
    assert kinds(sliced)["QGemm"] >= 3
    weights = [sliced.constants[n.input[3]] for n in sliced.nodes if n.op_type == "QGemm"]
    assert all(weight.axis == 1 for weight in weights)
    stored = [sum(c.nbytes for c in g.constants.values()) for g in (graph, sliced)]
    assert stored[0] == stored[1]
    assert_equal(graph, sliced)


def quantised(rows: int | str = 1, hidden: int = 512) -> onnx.ModelProto:
    """A convolution and products between QuantizeLinear and DequantizeLinear."""
    net = Net()
    scale, middle = net.constant(np.array(0.05, np.float32)), net.constant(np.array(128, np.uint8))

    def between(name: str) -> str:
        return net("DequantizeLinear", net("QuantizeLinear", name, scale, middle), scale, middle)

    def weight(*shape: int) -> str:
        zeros = net.constant(np.zeros(shape[0], np.int8))
        given = net.weight(*shape, dtype=np.int8), net.constant(np.full(shape[0], 1e-3, np.float32))
        return net("DequantizeLinear", *given, zeros, axis=0)

    def bias(channels: int) -> str:
        numbers = net.below(99, channels, dtype=np.int32)
        scales = net.constant(np.full(channels, 5e-5, np.float32))
        return net("DequantizeLinear", numbers, scales, axis=0)

    value = between(net.input("x", (rows, 64, 4, 4)))
    value = net("Conv", value, weight(hidden, 64, 3, 3), bias(hidden), pads=[1, 1, 1, 1])
    value = between(net("GlobalAveragePool", between(value)))
    value = between(net("Flatten", value))
    for _ in range(2):
        value = between(net("Gemm", value, weight(hidden, hidden), bias(hidden), transB=1))
    net.output(value)
    return net.model()


@pytest.mark.parametrize("rows", [1, "n"])
def test_the_saved_model_has_the_products(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int | str
) -> None:
    """Square weights too, whose shape stays."""
    onnx.save(quantised(rows), tmp_path / "toy.onnx")
    source = open_source(tmp_path / "toy.onnx")
    plain = optimise(source, tmp_path, operators=Operators.PORTABLE)
    assert "QGemm" in kinds(plain)
    monkeypatch.setattr(
        swapnet.builder.rewriting.optimise, "product_forms", partial(product_forms, measure=faster)
    )
    graph = optimise(source, tmp_path, operators=Operators.HARDWARE, shapes={"x": (1, 64, 4, 4)})
    assert kinds(graph)["QLinearConv"] == 0
    assert kinds(graph)["QGemm"] == 3
    assert not [a for n in graph.nodes for a in n.attribute if a.name == "transB" and a.i]
    stored = [sum(c.nbytes for c in g.constants.values()) for g in (plain, graph)]
    assert stored[0] == stored[1]
    options = quiet_options(optimise=False)
    options.intra_op_num_threads = 1
    types = open_session(tmp_path / TYPES, options)
    assert {v.name for v in (*types.get_inputs(), *types.get_outputs())} == set(graph.values)
    names = [value.name for value in graph.outputs]
    sessions = [types, open_session(tmp_path / WHOLE, options), session(graph), session(plain)]
    for batch in (1,) if rows == 1 else (1, 3):
        x = np.random.default_rng(0).standard_normal((batch, 64, 4, 4), np.float32)
        expected, *others = [one.run(names, {"x": x})[0] for one in sessions]
        assert len(np.unique(expected)) > 10
        for found in others:
            np.testing.assert_array_equal(found, expected)


def test_models_of_floats_are_not_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("measured")

    monkeypatch.setattr(swapnet.builder.rewriting.optimise, "product_forms", refuse)
    onnx.save(TOYS["images"].make(), tmp_path / "toy.onnx")
    optimise(open_source(tmp_path / "toy.onnx"), tmp_path, operators=Operators.HARDWARE)


def test_nothing_is_left_to_optimise(import_model: Import, tmp_path: Path) -> None:
    graph = import_model(convolved(pads=[1, 1, 1, 1]))
    done = product_forms(graph, tmp_path / "products.data", measure=faster)
    assert not has_quantised(done)
    assert product_forms(done, tmp_path / "again.data", measure=faster) is done
