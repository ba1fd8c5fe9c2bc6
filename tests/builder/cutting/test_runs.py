from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from swapnet.builder.cutting.partition import partition
from swapnet.builder.cutting.runs import (
    compute_factors_first,
    edges,
    local_runs,
    open_tokens,
    rows_of_values,
)
from swapnet.builder.importing.graph import Graph
from swapnet.strips import Rows, Run, strips_of
from tests.helpers.zoo import Net

Import = Callable[..., Graph]
CHANNELS = 16

Chain = Callable[[Net, str], str]


def conv(kernel: int, *, channels: int = CHANNELS, inner: int = CHANNELS, **options: Any) -> Chain:
    def write(net: Net, x: str) -> str:
        return net("Conv", x, net.weight(channels, inner, kernel, kernel), **options)

    return write


def pool(kind: str, kernel: int, stride: int, **options: Any) -> Chain:
    def write(net: Net, x: str) -> str:
        return net(kind, x, kernel_shape=[kernel] * 2, strides=[stride] * 2, **options)

    return write


def transposed(kernel: int, stride: int, **options: Any) -> Chain:
    def write(net: Net, x: str) -> str:
        weight = net.weight(CHANNELS, CHANNELS, kernel, kernel)
        return net("ConvTranspose", x, weight, strides=[stride] * 2, **options)

    return write


def resized(scale: float, mode: str, position: str, **options: Any) -> Chain:
    def write(net: Net, x: str) -> str:
        scales = net.constant(np.array([1, 1, scale, scale], np.float32))
        return net(
            "Resize", x, "", scales, mode=mode, coordinate_transformation_mode=position, **options
        )

    return write


def elementwise(net: Net, x: str) -> str:
    swish = net("Mul", x, net("HardSigmoid", x))
    return net("Add", net("Mul", swish, net.weight(CHANNELS, 1, 1)), net.weight(1))


def residual(net: Net, x: str) -> str:
    return net("Relu", net("Add", x, conv(3, pads=[1] * 4)(net, net("Relu", x))))


def u_shape(net: Net, x: str) -> str:
    deep = net("Relu", conv(3, pads=[1] * 4)(net, pool("MaxPool", 2, 2)(net, x)))
    wide = resized(2, "nearest", "asymmetric", nearest_mode="floor")(net, deep)
    return conv(3, inner=2 * CHANNELS, pads=[1] * 4)(net, net("Concat", wide, x, axis=1))


def normalised(net: Net, x: str) -> str:
    return net("BatchNormalization", x, *(net.weight(CHANNELS) for _ in range(3)), net.scales(16))


def scaled(net: Net, x: str) -> str:
    return net("Mul", x, net.input("scale", (1, CHANNELS, 1, 1)))


SAME: dict[str, Any] = {"pads": [1] * 4}
EVEN: dict[str, Any] = {"strides": [2, 2]}
LOCAL: dict[str, Chain] = {
    "conv": conv(3, **SAME),
    "conv without padding": conv(3, pads=[0] * 4),
    "conv with more padding": conv(3, pads=[2, 1, 0, 1]),
    "conv of stride 2": conv(3, **SAME, **EVEN),
    "conv of kernel 7, stride 2": conv(7, pads=[3] * 4, **EVEN),
    "conv of kernel 4, stride 4": conv(4, inner=4, group=4, strides=[4, 4]),
    "conv of even kernel": conv(2, pads=[0, 0, 1, 1]),
    "conv with holes": conv(3, dilations=[2, 2], pads=[2] * 4),
    "conv by groups": conv(3, inner=1, group=16, **SAME),
    "conv of few channels": conv(5, channels=5, pads=[2] * 4),
    "conv with padding by size": conv(3, auto_pad="SAME_UPPER"),
    "conv with padding by size, stride 2": conv(3, auto_pad="SAME_UPPER", **EVEN),
    "conv with lower padding by size, stride 2": conv(4, auto_pad="SAME_LOWER", **EVEN),
    "conv of valid rows": conv(3, auto_pad="VALID"),
    "max pool": pool("MaxPool", 2, 2),
    "max pool that overlaps": pool("MaxPool", 3, 2, **SAME),
    "max pool, rounded up": pool("MaxPool", 3, 2, ceil_mode=1),
    "max pool with holes": pool("MaxPool", 2, 1, dilations=[2, 2]),
    "average pool": pool("AveragePool", 3, 2, **SAME),
    "average pool with padding": pool("AveragePool", 3, 1, count_include_pad=1, **SAME),
    "average pool, rounded up": pool("AveragePool", 2, 2, ceil_mode=1),
    "transposed": transposed(2, 2),
    "transposed that overlaps": transposed(4, 2, **SAME),
    "transposed of stride 1": transposed(3, 1, **SAME),
    "transposed with more rows": transposed(3, 2, pads=[1] * 4, output_padding=[1, 1]),
    "transposed by groups": lambda net, x: net(
        "ConvTranspose", x, net.weight(CHANNELS, 1, 2, 2), strides=[2, 2], group=CHANNELS
    ),
    **{
        f"{mode} by {scale}, {position}": resized(scale, mode, position)
        for scale in (2, 4, 8)
        for mode in ("nearest", "linear")
        for position in ("asymmetric", "half_pixel", "pytorch_half_pixel")
    },
    "nearest by floor": resized(2, "nearest", "asymmetric", nearest_mode="floor"),
    "nearest by ceil": resized(2, "nearest", "half_pixel", nearest_mode="ceil"),
    "depth to space": lambda net, x: net("DepthToSpace", x, blocksize=2),
    "elementwise": elementwise,
    "normalised": normalised,
    "scaled by a value": scaled,
    "residual": residual,
    "u": u_shape,
}
MIXING: dict[str, Chain] = {
    "global pool": lambda net, x: net("Mul", x, net("GlobalAveragePool", x)),
    "linear by 3": resized(3, "linear", "half_pixel"),
    "corners": resized(2, "linear", "align_corners"),
    "cubic": resized(2, "cubic", "half_pixel"),
    "indices": lambda net, x: net(
        "Cast", net.several("MaxPool", x, outputs=2, kernel_shape=[2, 2])[1], to=1
    ),
    "rows joined": lambda net, x: net("Concat", x, x, axis=2),
    "turned": lambda net, x: net("Transpose", x, perm=[0, 1, 3, 2]),
    "bias of each row": lambda net, x: net("Add", x, net.weight(37, 1)),
    "instances": lambda net, x: net("InstanceNormalization", x, *(net.scales(16),) * 2),
}


def made(chain: Chain, height: int | str, width: int | str = "w") -> onnx.ModelProto:
    """The chain after a convolution, which brings ONNX Runtime's layout."""
    net = Net()
    x = net.input("x", (1, CHANNELS, height, width))
    net.output(net("Relu", chain(net, net("Relu", conv(1)(net, x)))))
    return net.model()


def the_run(import_model: Import, model: onnx.ModelProto) -> Run | None:
    graph = open_tokens(import_model(model))
    (part,) = partition(graph, 1 << 30)
    runs = local_runs(graph, [part], [0], rows_of_values(graph, 8))
    return runs[0] if runs else None


def rows_from(rows: Rows, start: int, stop: int) -> tuple[slice, ...]:
    return (*[slice(None)] * rows.axis, slice(start, stop))


def in_strips(
    session: ort.InferenceSession, run: Run, feeds: Mapping[str, NDArray[Any]], count: int
) -> None:
    expected = session.run(None, feeds)[0]
    heights = {name: feeds[name].shape[rows.axis] for name, rows in run.inputs.items()}
    strips = strips_of(run, heights, count)
    assert len(strips.strips) > 1
    assert strips.strips[0].first == 0
    assert strips.strips[-1].stop == strips.units
    found = np.full_like(expected, np.nan)
    (rows,) = run.outputs.values()
    cropped = set()
    for strip in strips.strips:
        crops = dict(feeds)
        for name, each in run.inputs.items():
            start, stop = strips.crop(each, heights[name], strip)
            crops[name] = np.ascontiguousarray(feeds[name][rows_from(each, start, stop)])
            cropped.add((name, stop - start))
        given = session.run(None, crops)[0]
        height = expected.shape[rows.axis]
        top, end = strips.crop(rows, height, strip)
        assert given.shape[rows.axis] == end - top
        start, stop = strips.given(rows, height, strip)
        found[rows_from(rows, start, stop)] = given[rows_from(rows, start - top, stop - top)]
    assert len(cropped) == len(run.inputs)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("name", LOCAL)
def test_strips_give_the_bits_of_the_whole(import_model: Import, name: str) -> None:
    model = made(LOCAL[name], "h").SerializeToString()
    plain = ort.SessionOptions()
    plain.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    random = np.random.default_rng(0)
    # Products of few columns are summed in another order: strips are not that small.
    width = 80 if "conv" in name or name in ("u", "residual") else 9
    run = the_run(import_model, made(LOCAL[name], 40, width))
    assert run is not None
    for options in (ort.SessionOptions(), plain):
        session = ort.InferenceSession(model, options)
        for height in (40, 43) if name != "u" else (40, 44):
            sizes = {"h": height, "w": width}
            feeds = {
                i.name: random.standard_normal([sizes.get(d, d) for d in i.shape], np.float32)
                for i in session.get_inputs()
            }
            for count in (2, 5):
                in_strips(session, run, feeds, count)


@pytest.mark.parametrize("name", MIXING)
def test_operators_that_mix_rows_are_in_no_run(import_model: Import, name: str) -> None:
    assert the_run(import_model, made(MIXING[name], 37, 9)) is None


UNARY = (
    *("Abs", "Ceil", "Erf", "Exp", "Floor", "HardSigmoid", "HardSwish", "LeakyRelu", "Neg"),
    *("Reciprocal", "Relu", "Round", "Sigmoid", "Sign", "Softsign", "Sqrt", "Tanh"),
)


@pytest.mark.parametrize("name", UNARY)
def test_functions_round_alike_wherever_a_value_stands(import_model: Import, name: str) -> None:
    def model(height: int | str) -> onnx.ModelProto:
        net = Net()
        net.output(net(name, net.input("x", (1, 3, height, 13))))
        return net.model()

    run = the_run(import_model, model(37))
    assert run is not None
    values = np.random.default_rng(0).standard_normal((1, 3, 37, 13), np.float32)
    feeds = {"x": np.abs(values) if name == "Sqrt" else 3 * values}
    session = ort.InferenceSession(model("h").SerializeToString())
    for count in (2, 5, 9):
        in_strips(session, run, feeds, count)


@pytest.mark.parametrize("name", ["Cos", "Elu", "Log", "Selu", "Sin", "Softplus"])
def test_functions_that_do_not_are_in_no_run(import_model: Import, name: str) -> None:
    assert the_run(import_model, made(lambda net, x: net(name, x), 37, 9)) is None


TOKENS, FEATURES, HEADS = 200, 32, 4


def attention(net: Net, _: str) -> str:
    """Queries that are given, with scores that a mask is added to."""
    heads = net("Mul", net.input("queries", (1, HEADS, "t", 8)), net.weight(1))
    scores = net("MatMul", heads, net.input("keys", (1, HEADS, 8, TOKENS)))
    masked = net("Add", scores, net.input("mask", (1, 1, 1, TOKENS)))
    return net(
        "MatMul", net("Softmax", masked, axis=-1), net.input("values", (1, HEADS, TOKENS, 8))
    )


def feed_forward(net: Net, x: str) -> str:
    hidden = net("Add", net.dense(x, FEATURES, 96), net.weight(96))
    halves = net(
        "Mul", hidden, net("Add", net("Erf", net("Div", hidden, net.weight(1))), net.weight(1))
    )
    return net("Add", x, net.dense(halves, 96, FEATURES))


def layer_normalised(net: Net, x: str) -> str:
    return net("LayerNormalization", x, net.weight(FEATURES), net.weight(FEATURES), axis=-1)


ROWWISE: dict[str, Chain] = {
    "attention": attention,
    "feed-forward": feed_forward,
    "layer norm": layer_normalised,
    "product of few columns": lambda net, x: net.dense(x, FEATURES, 3),
    "products of heads": lambda net, x: net("MatMul", x, net.input("right", (1, FEATURES, 5))),
    "softmax": lambda net, x: net("Softmax", net.dense(x, FEATURES, 40), axis=-1),
    "joined features": lambda net, x: net("Concat", x, net.dense(x, FEATURES, 7), axis=-1),
}
MIXING_TOKENS: dict[str, Chain] = {
    "second factor": lambda net, x: net("MatMul", net.weight(1, 5, TOKENS), x),
    "both factors": lambda net, x: net(
        "MatMul", net("Relu", x), net("Transpose", x, perm=[0, 2, 1])
    ),
    "softmax over tokens": lambda net, x: net("Softmax", x, axis=1),
    "normalised over tokens": lambda net, x: net(
        "LayerNormalization", x, net.weight(TOKENS, FEATURES), axis=1
    ),
    "positions": lambda net, x: net("Add", x, net.weight(1, TOKENS, FEATURES)),
    "tokens joined": lambda net, x: net("Concat", x, x, axis=1),
    "convolved": lambda net, x: net.dense(net("Conv", x, net.weight(8, TOKENS, 1)), FEATURES, 5),
    "pooled over features": lambda net, x: net(
        "AveragePool", net.dense(x, FEATURES, 6), kernel_shape=[2], strides=[2]
    ),
    "features enlarged": lambda net, x: net(
        "Resize", x, "", net.constant(np.array([1, 1, 2], np.float32)), mode="linear"
    ),
}


def of_tokens(chain: Chain, tokens: int | str) -> onnx.ModelProto:
    net = Net()
    output = chain(net, net.input("x", (1, tokens, FEATURES)))
    net.output(output)
    model = net.model()
    for given in model.graph.input:
        for dim in given.type.tensor_type.shape.dim:
            if dim.dim_param and isinstance(tokens, int):
                dim.dim_value = tokens
    return model


@pytest.mark.parametrize("name", ROWWISE)
def test_strips_of_tokens_give_the_bits_of_the_whole(import_model: Import, name: str) -> None:
    run = the_run(import_model, of_tokens(ROWWISE[name], TOKENS))
    assert run is not None
    assert run.above == run.below == 0
    session = ort.InferenceSession(of_tokens(ROWWISE[name], "t").SerializeToString())
    random = np.random.default_rng(0)
    for tokens in (TOKENS, TOKENS - 13):
        feeds = {
            i.name: random.standard_normal([tokens if d == "t" else d for d in i.shape], np.float32)
            for i in session.get_inputs()
        }
        for count in (2, 5, 12):
            in_strips(session, run, feeds, count)


@pytest.mark.parametrize("name", MIXING_TOKENS)
def test_operators_that_mix_tokens_are_in_no_run(import_model: Import, name: str) -> None:
    assert the_run(import_model, of_tokens(MIXING_TOKENS[name], TOKENS)) is None


def test_values_are_computed_before_the_scores_that_weigh_them(import_model: Import) -> None:
    def model(net: Net, x: str) -> str:
        def heads(value: str, *order: int) -> str:
            shape = net.constant(np.array([1, TOKENS, HEADS, 8]))
            return net("Transpose", net("Reshape", value, shape), perm=order)

        queries = heads(net.dense(x, FEATURES, FEATURES), 0, 2, 1, 3)
        keys = heads(net.dense(x, FEATURES, FEATURES), 0, 2, 3, 1)
        scores = net("Softmax", net("MatMul", queries, keys), axis=-1)
        values = heads(net.dense(x, FEATURES, FEATURES), 0, 2, 1, 3)
        return net("MatMul", scores, values)

    graph = import_model(of_tokens(model, TOKENS))
    ordered = compute_factors_first(graph)
    assert [node.op_type for node in ordered.nodes][-3:] == ["MatMul", "Softmax", "MatMul"]
    assert sorted(node.name for node in ordered.nodes) == sorted(node.name for node in graph.nodes)


def test_small_values_of_tokens_are_no_reason_to_cut(import_model: Import) -> None:
    def model(net: Net, x: str) -> str:
        both = net("Concat", net("CumSum", x, net.constant(np.array(1))), x, axis=1)
        return net("CumSum", net("Tanh", both), net.constant(np.array(1)))

    assert not edges(import_model(of_tokens(model, TOKENS)))
