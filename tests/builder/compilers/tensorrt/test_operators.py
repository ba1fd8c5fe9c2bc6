"""Operators of ONNX Runtime as TensorRT gets them give what ONNX Runtime gives."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from swapnet.builder.compilers.tensorrt.operators import expand
from swapnet.builder.importing.graph import Value
from swapnet.errors import ModelError
from swapnet.tensors import ONNX_TYPES
from tests.helpers.gpu import scatters

Feeds = dict[str, npt.NDArray[Any]]

HEADS, GROUPS, WIDTH, CONTEXT = 6, 2, 16, 16
scattering = pytest.mark.skipif(not scatters(), reason="this ONNX Runtime has no TensorScatter")
RANDOM = np.random.default_rng(0)


def run(model: onnx.ModelProto, feeds: Feeds) -> list[Any]:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    names = {value.name for value in model.graph.input}
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    return list(session.run(None, {n: a for n, a in feeds.items() if n in names}))


def both(nodes: list[onnx.NodeProto], feeds: Feeds, stored: Feeds, outputs: Any) -> Any:
    """Outputs of a model, and those of its expansion."""
    values = {n: Value(n, str(a.dtype), a.shape, a.shape) for n, a in feeds.items()}
    given = [
        helper.make_tensor_value_info(v.name, ONNX_TYPES[v.dtype], v.shape) for v in values.values()
    ]
    taken = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in outputs.items()]
    values |= {n: Value(n, "float32", s, s) for n, s in outputs.items()}
    constants = [numpy_helper.from_array(array, name) for name, array in stored.items()]
    graph = helper.make_graph(nodes, "block", given, taken, constants)
    kinds = [each.op_type for each in nodes]
    opset = 24 if "GroupQueryAttention" in kinds else 21
    sets = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=sets, ir_version=10)
    expected = run(model, feeds)
    expand(model, "block 0", values)
    return expected, run(model, feeds), model


def node(kind: str, inputs: list[str], outputs: list[str], **options: Any) -> onnx.NodeProto:
    return helper.make_node(kind, inputs, outputs, domain="com.microsoft", **options)


def floats(*shape: int) -> npt.NDArray[Any]:
    return RANDOM.standard_normal(shape, np.float32)


def words(*shape: int) -> npt.NDArray[Any]:
    return RANDOM.integers(0, 256, shape, np.uint8)


@pytest.mark.parametrize(
    ("bits", "zeros"), [(4, ""), (4, "uint8"), (4, "float32"), (8, ""), (8, "uint8")]
)
@pytest.mark.parametrize("bias", ["", "bias"])
def test_products_with_blocks(bits: int, zeros: str, bias: str) -> None:
    rows, blocks = 24, 3
    feeds = {
        "x": floats(1, 5, 32 * blocks),
        "packed": words(rows, blocks, 4 * bits),
        "scales": floats(rows, blocks),
        "bias": floats(rows),
    }
    if zeros:
        packed = words(rows * -(-blocks * bits // 8))
        feeds["zeros"] = packed if zeros == "uint8" else floats(rows, blocks)
    inputs = ["x", "packed", "scales", "zeros" if zeros else "", "", bias]
    options = {"K": 32 * blocks, "N": rows, "bits": bits, "block_size": 32}
    product = node("MatMulNBits", inputs, ["y"], **options)
    expected, found, model = both([product], feeds, {}, {"y": (1, 5, rows)})
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-4, atol=1e-3)
    assert "MatMulNBits" not in [each.op_type for each in model.graph.node]


def attention_feeds(lengths: list[int], tokens: int) -> Feeds:
    """``lengths`` of the cache before, by row."""
    batch = len(lengths)
    feeds = {name: floats(batch, tokens, n * WIDTH) for name, n in (("q", HEADS), ("k", GROUPS))}
    feeds["v"] = floats(batch, tokens, GROUPS * WIDTH)
    feeds |= {name: floats(batch, GROUPS, CONTEXT, WIDTH) for name in ("key", "value")}
    feeds["last"] = np.array(lengths, np.int32) + np.int32(tokens - 1)
    feeds["total"] = np.array(max(lengths) + tokens, np.int32)
    angles = np.outer(np.arange(CONTEXT), 100.0 ** -np.linspace(0, 1, WIDTH // 2))
    return feeds | {f: getattr(np, f)(angles).astype(np.float32) for f in ("cos", "sin")}


@scattering
@pytest.mark.parametrize(
    "rotary", [{}, {"do_rotary": 1, "rotary_interleaved": 0}, {"do_rotary": 1}]
)
@pytest.mark.parametrize(("lengths", "tokens"), [([0], 5), ([3], 5), ([15], 1), ([2, 9], 1)])
def test_attention_with_a_cache(rotary: dict[str, int], lengths: list[int], tokens: int) -> None:
    feeds = attention_feeds(lengths, tokens)
    inputs = ["q", "k", "v", "key", "value", "last", "total"]
    if rotary:
        inputs += ["cos", "sin"]
        rotary = {"rotary_interleaved": 1, **rotary}
    options = {"num_heads": HEADS, "kv_num_heads": GROUPS, **rotary}
    outputs = {"y": feeds["q"].shape, "new_key": feeds["key"].shape}
    outputs["new_value"] = feeds["value"].shape
    attention = node("GroupQueryAttention", inputs, [*outputs], **options)
    expected, found, _ = both([attention], feeds, {}, outputs)
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-4, atol=1e-5)
    for row, length in enumerate(lengths):
        for wanted, given in zip(expected[1:], found[1:], strict=True):
            used = slice(length + tokens)
            np.testing.assert_allclose(given[row, :, used], wanted[row, :, used], atol=1e-5)


@scattering
def test_attention_with_queries_and_keys_in_one() -> None:
    feeds = attention_feeds([3], 5)
    feeds["packed"] = np.concatenate([feeds.pop(name) for name in "qkv"], axis=2)
    outputs = {"y": (1, 5, HEADS * WIDTH), "a": feeds["key"].shape, "b": feeds["key"].shape}
    inputs = ["packed", "", "", "key", "value", "last", "total"]
    attention = node(
        "GroupQueryAttention", inputs, [*outputs], num_heads=HEADS, kv_num_heads=GROUPS
    )
    expected, found, _ = both([attention], feeds, {}, outputs)
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-4, atol=1e-5)


@scattering
def test_prompts_that_are_padded_behind_begin_at_0() -> None:
    feeds = attention_feeds([0, 0], 5)
    feeds["last"] = np.array([2, 4], np.int32)
    inputs = ["q", "k", "v", "key", "value", "last", "total"]
    outputs = {"y": feeds["q"].shape, "a": feeds["key"].shape, "b": feeds["key"].shape}
    options = {"num_heads": HEADS, "kv_num_heads": GROUPS}
    attention = node("GroupQueryAttention", inputs, [*outputs], **options)
    expected, found, _ = both([attention], feeds, {}, outputs)
    np.testing.assert_allclose(found[0][0, :3], expected[0][0, :3], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found[0][1], expected[0][1], rtol=1e-4, atol=1e-5)


@scattering
def test_what_is_not_used_of_a_cache_has_no_effect() -> None:
    feeds = attention_feeds([3], 1)
    inputs = ["q", "k", "v", "key", "value", "last", "total"]
    outputs = {"y": feeds["q"].shape, "a": feeds["key"].shape, "b": feeds["key"].shape}
    options = {"num_heads": HEADS, "kv_num_heads": GROUPS}
    attention = node("GroupQueryAttention", inputs, [*outputs], **options)
    _, found, model = both([attention], feeds, {}, outputs)
    feeds["key"][:, :, 4:] = np.nan
    feeds["value"][:, :, 4:] = 1e30
    np.testing.assert_array_equal(run(model, feeds)[0], found[0])


def test_bytes_become_larger_integers() -> None:
    rows, dims = words(1, 5, 16), np.array([1, 5, 16, 1])
    nodes = [
        helper.make_node("Mod", ["rows", "sixteen"], ["low"]),
        helper.make_node("BitShift", ["rows", "four"], ["high"], direction="RIGHT"),
        *(helper.make_node("Reshape", [n, "dims"], [n + "4"]) for n in ("low", "high")),
        helper.make_node("Concat", ["low4", "high4"], ["both"], axis=3),
        helper.make_node("Cast", ["both"], ["y"], to=TensorProto.FLOAT),
    ]
    stored = {"sixteen": np.array(16, np.uint8), "four": np.array(4, np.uint8), "dims": dims}
    expected, found, model = both(nodes, {"rows": rows}, stored, {"y": (1, 5, 16, 2)})
    np.testing.assert_array_equal(found[0], expected[0])
    assert "BitShift" not in [each.op_type for each in model.graph.node]


@scattering
@pytest.mark.parametrize(
    ("options", "word"), [({"softcap": 5.0}, "softcap"), ({"local_window_size": 4}, "local_window")]
)
def test_attention_of_another_kind_is_refused(options: dict[str, Any], word: str) -> None:
    feeds = attention_feeds([3], 1)
    inputs = ["q", "k", "v", "key", "value", "last", "total"]
    outputs = {"y": feeds["q"].shape, "a": feeds["key"].shape, "b": feeds["key"].shape}
    options = {"num_heads": HEADS, "kv_num_heads": GROUPS, **options}
    with pytest.raises(ModelError, match=f"block 0 (?s:.*) has {word}"):
        both([node("GroupQueryAttention", inputs, [*outputs], **options)], feeds, {}, outputs)


@scattering
def test_a_cache_of_no_tokens_is_refused() -> None:
    feeds = attention_feeds([0], 5)
    feeds |= {name: feeds[name][:, :, :0] for name in ("key", "value")}
    inputs = ["q", "k", "v", "key", "value", "last", "total"]
    present = (1, GROUPS, 5, WIDTH)
    outputs = {"y": feeds["q"].shape, "a": present, "b": present}
    attention = node(
        "GroupQueryAttention", inputs, [*outputs], num_heads=HEADS, kv_num_heads=GROUPS
    )
    with pytest.raises(ModelError, match="a cache of no tokens"):
        both([attention], feeds, {}, outputs)


def test_products_in_another_order_are_refused() -> None:
    feeds = {"x": floats(1, 5, 32), "packed": words(8, 1, 16), "scales": floats(8, 1)}
    feeds["order"] = np.zeros(32, np.int32)
    product = node("MatMulNBits", ["x", "packed", "scales", "", "order"], ["y"])
    options = {"K": 32, "N": 8, "bits": 4, "block_size": 32}
    product.attribute.extend(helper.make_attribute(*each) for each in options.items())
    with pytest.raises(ModelError, match="MatMulNBits 'y' has"):
        both([product], feeds, {}, {"y": (1, 5, 8)})
