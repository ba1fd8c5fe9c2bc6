"""Sizes that a graph fixes, sizes to assume, and those that ONNX Runtime names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from swapnet.builder import build
from swapnet.builder.importing.graph import Graph, Value
from swapnet.builder.importing.shapes import plan_sizes
from swapnet.builder.importing.source import open_source
from swapnet.builder.importing.symbols import (
    candidates,
    context_sizes,
    fixed_sizes,
    likely_shapes,
)
from swapnet.builder.rewriting.optimise import TYPES, Operators, optimise
from swapnet.errors import InputError, ModelError
from swapnet.executor.backends.onnxruntime import names_shapes
from tests.helpers.zoo import Net

Planned = Callable[..., Graph]


@pytest.fixture
def planned(tmp_path: Path) -> Planned:
    """Plans a model at given and assumed sizes."""

    def plan(net: Net, **dims: int) -> Graph:
        onnx.save(net.model(), tmp_path / "toy.onnx")
        graph = optimise(open_source(tmp_path / "toy.onnx"), tmp_path, operators=Operators.STANDARD)
        return plan_sizes(graph, tmp_path / TYPES, {}, dims)

    return plan


def shapes(graph: Graph) -> dict[str, tuple[int, ...]]:
    return {value.name: value.planned for value in graph.inputs}


def _product(net: Net) -> None:
    net.output(net.dense(net.input("x", ("n", "c")), 48, 8))


def _transposed(net: Net) -> None:
    net.output(net("Gemm", net.input("x", ("n", "c")), net.weight(8, 48), transB=1))


def _convolution(net: Net) -> None:
    value = net("Relu", net.input("x", ("n", "c", 8, 8)))
    net.output(net("Conv", value, net.weight(6, 24, 3, 3), group=2))


def _deconvolution(net: Net) -> None:
    net.output(net("ConvTranspose", net.input("x", ("n", "c", 8, 8)), net.weight(48, 6, 3, 3)))


def _normalised(net: Net) -> None:
    scales = [net.constant(np.ones(48, np.float32)) for _ in range(4)]
    net.output(net("BatchNormalization", net.input("x", ("n", "c", 8, 8)), *scales))


def _recurrent(net: Net) -> None:
    given = net.input("x", (5, "n", "c")), net.weight(1, 64, 48), net.weight(1, 64, 16), "", ""
    state = net.input("h", (1, "n", "hidden")), net.input("c0", (1, "n", "hidden"))
    net.output(net.several("LSTM", *given, *state, outputs=1, hidden_size=16)[0])


def _joined(net: Net) -> None:
    value = net("Concat", net.input("x", ("n", "c")), net.input("y", ("m", 48)), axis=0)
    net.output(net("Relu", value))


def _branches(net: Net, *, rows: int = 48) -> None:
    value, condition = net.input("x", ("n", "c")), net.input("condition", (), TensorProto.BOOL)
    then, other = Net(prefix="then."), Net(prefix="else.")
    then.output(then.dense(then("Relu", value), 48, 8))
    then.nodes[1].input[0] = value
    other.output(other.dense(value, rows, 8))
    bodies = {"then_branch": then.body("then"), "else_branch": other.body("else")}
    net.output(net("If", condition, **bodies))


def _loop(net: Net) -> None:
    """The body has a branch, and another name for the input."""
    body, inner = Net(prefix="body."), Net(prefix="inner.")
    body.input("i", (), TensorProto.INT64)
    go_on = body("Identity", body.input("go", (), TensorProto.BOOL))
    carried = body.input("carried", ("n", "c"))
    inner.output(inner("Relu", inner.dense(carried, 48, 48)))
    other = Net(prefix="other.")
    other.output(other("Neg", carried))
    branches = {"then_branch": inner.body("then"), "else_branch": other.body("else")}
    body.output(go_on, body("If", "go", **branches))
    trips, condition = net.constant(np.array(3, np.int64)), net.constant(np.array(True))
    net.output(net("Loop", trips, condition, net.input("x", ("n", "c")), body=body.body("body")))


older = pytest.mark.skipif(
    not names_shapes(), reason="this ONNX Runtime refuses the bodies before they are rewritten"
)


@older
def test_branches_that_differ_fix_no_size(planned: Planned) -> None:
    net = Net()
    _branches(net, rows=24)
    assert planned(net, c=48).inputs[0].shape == ("n", "c")


@pytest.mark.parametrize(
    "write",
    [
        pytest.param(_branches, marks=older),
        pytest.param(_loop, marks=older),
        _product,
        _transposed,
        _convolution,
        _deconvolution,
        _normalised,
        _recurrent,
        _joined,
    ],
)
def test_weights_fix_the_size_of_an_axis(planned: Planned, write: Callable[[Net], None]) -> None:
    net = Net()
    write(net)
    graph = planned(net)
    assert graph.symbols["c"] == 48
    assert 48 in graph.inputs[0].shape
    assert graph.symbols.get("hidden", 16) == 16
    with pytest.raises(InputError, match="c=3"):
        planned(net, c=3)
    assert planned(net, c=48).symbols == graph.symbols


@pytest.mark.parametrize("packed", [False, True])
def test_attention_fixes_its_past(planned: Planned, packed: bool) -> None:
    net = Net()
    value = net.input("x", (1, "seq", 32))
    past = [net.input(name, (1, "kv", "past", "head")) for name in ("k", "v")]
    queries = [net.dense(value, 32, 64)] if packed else []
    queries = queries or [net.dense(value, 32, width) for width in (32, 16, 16)]
    counted = net("Sub", net.input("lengths", (1,), TensorProto.INT64), net.constant(np.array(1)))
    lengths = net("Cast", counted, to=TensorProto.INT32)
    total = net.constant(np.array(128, np.int32))
    net.output(
        *net.several(
            *("GroupQueryAttention", *queries, *([""] * (3 - len(queries))), *past, lengths, total),
            outputs=3,
            domain="com.microsoft",
            num_heads=4,
            kv_num_heads=2,
        )
    )
    onnx_graph = planned(net, past=0)
    assert (onnx_graph.symbols["kv"], onnx_graph.symbols["head"]) == (2, 8)


def test_other_attentions_fix_their_past(tmp_path: Path) -> None:
    net = Net()
    value = net.input("x", (1, "seq", "width"))
    past = net.input("past", (2, 1, "heads", "past", "head"))
    weights = net.weight(32, 96), net.weight(96)
    net.output(
        *net.several(
            *("Attention", value, *weights, "", past),
            outputs=2,
            domain="com.microsoft",
            num_heads=4,
        )
    )
    keys = [net.input(name, (1, "heads2", "past", "head2")) for name in ("k", "v")]
    parts = [net.dense(net("Relu", value), 32, 32) for _ in range(3)]
    net.output(
        *net.several(
            *("MultiHeadAttention", *parts, "", "", "", *keys),
            outputs=3,
            domain="com.microsoft",
            num_heads=4,
        )
    )
    onnx.save(net.model(), tmp_path / "toy.onnx")
    graph = optimise(open_source(tmp_path / "toy.onnx"), tmp_path, operators=Operators.STANDARD)
    assert fixed_sizes(graph) == {"width": 32, "heads": 4, "head": 8, "heads2": 4, "head2": 8}


def first(name: str, dtype: str, *dims: int | str, **known: int) -> tuple[int, ...]:
    """Shape of an input at the sizes to try first."""
    sizes = next(candidates([Value(name, dtype, dims)], known))
    return tuple(sizes[dim] if isinstance(dim, str) else dim for dim in dims)


@pytest.mark.parametrize(
    ("name", "dtype", "dims", "expected"),
    [
        ("x", "float32", ("batch", 3, "height", "width"), (1, 3, 224, 224)),
        ("x", "float32", ("N", "channels", "H", "W"), (1, 3, 224, 224)),
        ("x", "float32", ("x.0", 3, 48, "x.3"), (1, 3, 48, 224)),
        ("x", "uint8", ("unk__1", "unk__2", "unk__3", 3), (1, 224, 224, 3)),
        ("x", "float32", (3, "s0", "s1"), (3, 224, 224)),
        ("x", "float32", ("x.0", 80, "x.2"), (1, 80, 1)),
        ("x", "float32", ("x.0", "x.1", "x.2", "x.3"), (1, 1, 1, 1)),
        ("pixel_values", "float32", ("b", 3, "a", "c"), (1, 3, 224, 3)),
        ("ids", "int64", ("unk__1", "unk__2"), (1, 128)),
        ("input_ids", "int64", ("B", "L"), (1, 128)),
        ("input_ids", "int64", ("batch", "sequence"), (1, 128)),
        ("boxes", "int64", ("n", "m"), (1, 1)),
        ("x", "float32", ("n", "num_tokens", 64), (1, 128, 64)),
        ("x", "float32", ("n", "seq_len", 64), (1, 128, 64)),
        ("past", "float32", ("b", 8, "past_sequence_length", 64), (1, 8, 0, 64)),
        ("x", "float32", ("rows", "columns"), (1, 1)),
    ],
)
def test_sizes_to_assume(
    name: str, dtype: str, dims: tuple[int | str, ...], expected: tuple[int, ...]
) -> None:
    assert first(name, dtype, *dims) == expected


def test_what_is_given_is_kept_in_all_that_is_tried() -> None:
    inputs = [Value("x", "float32", ("batch", 3, "height", "width"))]
    tried = list(candidates(inputs, {"width": 100}))
    assert [sizes["height"] for sizes in tried] == [224, 256, 48, 32, 512, 640, 1]
    assert {sizes["width"] for sizes in tried} == {100}


def test_a_total_is_the_sum_of_what_is_assumed() -> None:
    names = ("past_length", "total_sequence_length", "sequence_length")
    inputs = [Value("m", "float32", names)]
    assert [tuple(s[n] for n in names) for s in candidates(inputs, {})] == [
        *((0, 128, 128), (1, 129, 128), (1, 2, 1)),
    ]
    (only,) = candidates(inputs, dict(zip(names, (5, 8, 3), strict=True)))
    assert tuple(only.values()) == (5, 8, 3)


def _refusing(net: Net) -> None:
    """Sides of which a quarter of a quarter of a quarter comes back: multiples of 64."""
    value = start = net("Relu", net.input("x", ("batch", 3, "height", "width")))
    for _ in range(3):
        value = net("MaxPool", value, kernel_shape=[4, 4], strides=[4, 4])
    scales = net.constant(np.array([1, 1, 64, 64], np.float32))
    net.output(net("Add", start, net("Resize", value, "", scales)))


def _reshaped(net: Net) -> None:
    """A length that only ones fit."""
    value = net("Reshape", net.input("x", ("seq", 4)), net.constant(np.array([1, 4])))
    net.output(net("Relu", value))


@pytest.mark.parametrize(
    ("write", "expected"),
    [(_refusing, (1, 3, 256, 256)), (_reshaped, (1, 4))],
)
@pytest.mark.slow
def test_other_sizes_are_tried_where_the_model_refuses(
    planned: Planned, write: Callable[[Net], None], expected: tuple[int, ...]
) -> None:
    net = Net()
    write(net)
    graph = planned(net)
    assert shapes(graph) == {"x": expected}


def test_a_size_that_the_refusal_names_is_tried(planned: Planned) -> None:
    net = Net()
    value = net.dense(net.input("x", (1, "sequence", 64)), 64, 64)
    net.output(net("Add", value, net.weight(77, 64)))
    assert planned(net).symbols == {"sequence": 77}
    with pytest.raises(ModelError) as caught:
        planned(net, sequence=5)
    assert caught.value.what == "the model does not run at sequence=5"
    assert all(number in caught.value.why for number in ("5", "77"))
    assert caught.value.hint == "it runs at --dims sequence=77"


def test_a_refusal_of_all_sizes_says_what_was_tried(planned: Planned) -> None:
    net = Net()
    value = net("Reshape", net.input("x", ("n", 4)), net.constant(np.array([3, 5])))
    net.output(net("Relu", value))
    with pytest.raises(ModelError) as caught:
        planned(net)
    assert caught.value.what == "the model does not run at n=1"
    assert "--dims n=SIZE" in caught.value.hint


def test_a_difference_that_has_no_size_is_no_end(planned: Planned) -> None:
    net = Net()
    net.output(net("Relu", net.input("x", (1, "k - 5"))), net("Relu", net.input("y", (2, "k"))))
    assert planned(net).symbols == {"k": 512}
    assert likely_shapes(net.body("toy"), {"y": (2, 3)}, {}) == {"y": (2, 3)}
    with pytest.raises(ModelError, match="does not run at k=3"):
        planned(net, k=3)


def test_what_has_no_symbols_is_refused_as_it_is(planned: Planned) -> None:
    net = Net()
    net.output(net("Reshape", net.input("x", (4,)), net.input("s", (2,), TensorProto.INT64)))
    with pytest.raises(ModelError, match="seeded inputs of x: 4, s: 2"):
        planned(net)


def test_shapes_are_likely_before_a_model_is_read() -> None:
    net = Net()
    net.input("ids", ("batch", "seq"), TensorProto.INT64)
    net.input("image", (1, 3, "?", ""))
    net.input("mask", ("batch", "past + seq"), TensorProto.BOOL)
    net.weights.append(onnx.numpy_helper.from_array(np.ones(3, np.float32), "listed"))
    net.input("listed", (3,))
    graph = net.body("toy")
    assert likely_shapes(graph, {}, {}) == {
        "ids": (1, 128),
        "image": (1, 3, 224, 224),
        "mask": (1, 128),
    }
    shapes = likely_shapes(graph, {"ids": (2, 5)}, {"past": 7})
    assert (shapes["ids"], shapes["mask"]) == ((2, 5), (2, 12))
    with pytest.raises(InputError, match="'other'"):
        likely_shapes(graph, {}, {"other": 1})


def test_smallest_shapes_follow_the_graph(tmp_path: Path) -> None:
    net = Net()
    net.output(net.dense(net.input("x", ("n", "c")), 48, 8))
    onnx.save(net.model(), tmp_path / "toy.onnx")
    manifest = build(tmp_path / "toy.onnx", tmp_path / "engine", dims={"n": 3})
    assert manifest.planned_shapes == {"x": (3, 48)}
    assert manifest.symbols == {"n": 3, "c": 48}


PAST, TOTAL, SEQUENCE = "past_sequence_length", "total_sequence_length", "sequence_length"


@pytest.mark.parametrize(
    ("in_place", "dims", "sizes"),
    [
        (True, {}, (512, 512, 128)),
        (True, {PAST: 1024}, (1024, 1024, 128)),
        (False, {}, (384, 512, 128)),
        (False, {SEQUENCE: 64}, (448, 512, 64)),
        (False, {PAST: 100}, (100, 228, 128)),
        (False, {SEQUENCE: 600}, (0, 600, 600)),
        (True, {SEQUENCE: 600}, (600, 600, 600)),
    ],
)
def test_a_decoder_has_sizes_of_the_last_chunk_of_a_context(
    in_place: bool, dims: dict[str, int], sizes: tuple[int, int, int]
) -> None:
    ids = Value("input_ids", "int64", ("batch_size", SEQUENCE))
    mask = Value("attention_mask", "int64", ("batch_size", TOTAL))
    past = Value("past_key_values.0.key", "float32", ("batch_size", 2, PAST, 16))
    found = context_sizes([ids, mask, past], dims, 512, in_place=in_place)
    assert tuple(found[symbol] for symbol in (PAST, TOTAL, SEQUENCE)) == sizes


def test_other_models_have_the_sizes_that_are_given() -> None:
    image = Value("image", "float32", ("n", 3, "h", "w"))
    assert context_sizes([image], {"n": 2}, 512, in_place=False) == {"n": 2}
