"""Small decoders with a cache, in the forms that exporters of language models write."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto

from swapnet.executor.engine import Engine
from swapnet.manifest import Manifest
from tests.helpers.zoo import Net

__all__ = ["concatenating", "expected", "grouped", "inputs_after", "named"]

LAYERS, HIDDEN, HEADS, VOCABULARY = 3, 64, 4, 4096
_HEAD = HIDDEN // HEADS
_INT64 = TensorProto.INT64


def concatenating() -> onnx.ModelProto:
    """As optimum: a mask over ``past + sequence``, positions, and Concat of past and new keys."""
    net = Net()
    ids = net.input("input_ids", ("batch_size", "sequence_length"), _INT64)
    total = "past_sequence_length + sequence_length"
    mask = net("Cast", net.input("attention_mask", ("batch_size", total), _INT64), to=1)
    places = net.input("position_ids", ("batch_size", "sequence_length"), _INT64)
    value = net("Add", _rows(net, ids), net("Gather", net.weight(512, HIDDEN), places))
    hidden = net("Sub", mask, net.constant(np.array(1, np.float32)))
    scaled = net("Mul", hidden, net.constant(np.array(1e4, np.float32)))
    bias = net("Unsqueeze", scaled, net.constant(np.array([1, 2])))
    split = net.constant(np.array([0, 0, HEADS, _HEAD]))
    scale = net.constant(np.array(_HEAD**-0.5, np.float32))
    for layer in range(LAYERS):
        query, key, content = (
            net("Transpose", net("Reshape", _dense(net, value), split), perm=[0, 2, 1, 3])
            for _ in range(3)
        )
        key, content = (
            _present(net, f"{layer}.{name}", new)
            for name, new in (("key", key), ("value", content))
        )
        scores = net("MatMul", query, net("Transpose", key, perm=[0, 1, 3, 2]))
        weights = net("Softmax", net("Add", net("Mul", scores, scale), bias), axis=-1)
        mixed = net("Transpose", net("MatMul", weights, content), perm=[0, 2, 1, 3])
        joined = net("Reshape", mixed, net.constant(np.array([0, 0, HIDDEN])))
        value = net("Add", value, net("Tanh", _dense(net, joined)))
    net.output(net.dense(value, HIDDEN, VOCABULARY))
    return net.model()


def grouped(bits: int = 32, hidden: int = HIDDEN) -> onnx.ModelProto:
    """As onnxruntime-genai: GroupQueryAttention, and a symbol for the size of a head."""
    net = Net()
    ids = net.input("input_ids", ("batch_size", "sequence_length"), _INT64)
    mask = net.input("attention_mask", ("batch_size", "total_sequence_length"), _INT64)
    counted = net("ReduceSum", mask, net.constant(np.array([1])), keepdims=0)
    lengths = net("Cast", net("Sub", counted, net.constant(np.array(1))), to=TensorProto.INT32)
    total = net("Gather", net("Shape", mask), net.constant(np.array(1)))
    total = net("Cast", total, to=TensorProto.INT32)
    value = _rows(net, ids, hidden)
    keys, half = HEADS // 2, hidden // 2
    for layer in range(LAYERS):
        shape = ("batch_size", keys, "past_sequence_length", "kv_cache_dim")
        past = [net.input(f"past_key_values.{layer}.{name}", shape) for name in ("key", "value")]
        query = _dense(net, value, bits, hidden, hidden)
        key, content = (_dense(net, value, bits, half, hidden) for _ in range(2))
        mixed, *present = net.several(
            *("GroupQueryAttention", query, key, content, *past, lengths, total),
            outputs=3,
            domain="com.microsoft",
            num_heads=HEADS,
            kv_num_heads=keys,
        )
        net.output(*present)
        value = net("Add", value, net("Tanh", _dense(net, mixed, bits, hidden, hidden)))
    net.output(_dense(net, value, bits, VOCABULARY, hidden))
    return net.model()


def _rows(net: Net, ids: str, hidden: int = HIDDEN) -> str:
    return net("Gather", net.weight(VOCABULARY, hidden), ids)


def _present(net: Net, name: str, new: str) -> str:
    shape = ("batch_size", HEADS, "past_sequence_length", _HEAD)
    present = net("Concat", net.input(f"past_key_values.{name}", shape), new, axis=2)
    net.output(present)
    return present


def named(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with exporters' names of outputs: ``logits``, ``present.0.key``."""
    kinds = [f"{layer}.{kind}" for layer in range(LAYERS) for kind in ("key", "value")]
    names = [*(f"present.{kind}" for kind in kinds), "logits"]
    renamed = dict(zip((o.name for o in model.graph.output), names, strict=True))
    for node in model.graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        node.output[:] = [renamed.get(name, name) for name in node.output]
    for output in model.graph.output:
        output.name = renamed[output.name]
    return model


def inputs_after(manifest: Manifest, ids: list[int], before: int) -> dict[str, Any]:
    """Inputs of a decoder for these tokens, without those of its cache."""
    after = before + len(ids)
    values = {
        "input_ids": np.array([ids], np.int64),
        "attention_mask": np.ones((1, after), np.int64),
        "position_ids": np.arange(before, after)[None],
    }
    return {t.name: values[t.name] for t in manifest.inputs if t.name in values}


def expected(engine: Engine, prompt: list[int], count: int, chunk: int = 128) -> list[int]:
    """Greedy tokens of ONNX Runtime; the concatenating decoder looks at a whole chunk."""
    options = onnxruntime.SessionOptions()
    packs = str(int(not engine.manifest.has_windows))
    options.add_session_config_entry("session.disable_prepacking", packs)
    session = onnxruntime.InferenceSession(engine.folder.with_name("model.onnx"), options)
    names = [output.name for output in session.get_outputs()]
    past = {
        taken.name: np.zeros((1, taken.shape[1], 0, HIDDEN // HEADS), np.float32)
        for taken in session.get_inputs()
        if taken.name.startswith("past")
    }
    parts = [prompt[start : start + chunk] for start in range(0, len(prompt), chunk)]
    tokens: list[int] = []
    before = 0
    while len(tokens) < count:
        ids = parts.pop(0) if parts else tokens[-1:]
        found = session.run(names, {**inputs_after(engine.manifest, ids, before), **past})
        outputs = dict(zip(names, found, strict=True))
        before += len(ids)
        past = {name: outputs[name.replace("past_key_values", "present")] for name in past}
        if not parts:
            tokens.append(int(outputs["logits"][0, -1].argmax()))
    return tokens


def _dense(net: Net, value: str, bits: int = 32, width: int = HIDDEN, hidden: int = HIDDEN) -> str:
    if bits == 32:
        return net.dense(value, hidden, width)
    packed = net.weight(width, hidden // 32, 16, dtype=np.uint8)
    scales = net.scales(width * hidden // 32)
    attributes = {"K": hidden, "N": width, "bits": bits, "block_size": 32, "accuracy_level": 4}
    return net("MatMulNBits", value, packed, scales, domain="com.microsoft", **attributes)
