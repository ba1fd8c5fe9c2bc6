"""A model of three products, and the same with Q/DQ pairs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

WIDTH = 8
Write = Callable[..., Path]


def weights() -> dict[str, NDArray[np.float32]]:
    """Three square matrices."""
    random = np.random.default_rng(3)
    names = ("w0", "w1", "w2")
    return {n: random.standard_normal((WIDTH, WIDTH)).astype(np.float32) for n in names}


def samples(count: int = 3) -> list[dict[str, NDArray[Any]]]:
    """Batches of different lengths."""
    random = np.random.default_rng(4)
    return [{"x": random.standard_normal((i + 1, WIDTH)).astype(np.float32)} for i in range(count)]


def product(name: str, given: str, weight: str, output: str) -> onnx.NodeProto:
    """One MatMul."""
    return helper.make_node("MatMul", [given, weight], [output], name=name)


def float_nodes() -> list[onnx.NodeProto]:
    """first, relu, second, third: values a, b, c, y."""
    return [
        product("first", "x", "w0", "a"),
        helper.make_node("Relu", ["a"], ["b"], name="relu"),
        product("second", "b", "w1", "c"),
        product("third", "c", "w2", "y"),
    ]


def rounded(value: str, kind: str = "int8") -> list[onnx.NodeProto]:
    """A Q/DQ pair as onnxruntime's quantiser names it."""
    scale = [f"{value}_scale", f"{kind}_zero"]
    stored = f"{value}_QuantizeLinear_Output"
    return [
        helper.make_node("QuantizeLinear", [value, *scale], [stored]),
        helper.make_node(
            "DequantizeLinear", [stored, *scale], [f"{value}_DequantizeLinear_Output"]
        ),
    ]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Saves nodes as a model; ``scales`` are of Q/DQ pairs, weights lie in a file beside it."""

    def save(
        name: str,
        nodes: list[onnx.NodeProto],
        scales: dict[str, float] | None = None,
        output: str = "y",
    ) -> Path:
        constants: dict[str, NDArray[Any]] = {
            **weights(),
            **{f"{n}_scale": np.array(s, np.float32) for n, s in (scales or {}).items()},
            "int8_zero": np.array(0, np.int8),
            "uint8_zero": np.array(0, np.uint8),
        }
        read = {given for node in nodes for given in node.input}
        graph = helper.make_graph(
            nodes,
            name,
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", WIDTH])],
            [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["n", WIDTH])],
            [numpy_helper.from_array(v, n) for n, v in constants.items() if n in read],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        path = tmp_path / f"{name}.onnx"
        onnx.save_model(
            model,
            path,
            save_as_external_data=True,
            location=f"{name}.onnx.data",
            size_threshold=64,
        )
        return path

    return save


@pytest.fixture
def reference(write: Write) -> Path:
    """The float model."""
    return write("reference", float_nodes())


@pytest.fixture
def candidate(write: Write) -> Path:
    """Its inputs of products rounded, coarsely before ``second``; the Relu became part of it."""
    nodes = [
        *rounded("x"),
        product("first", "x_DequantizeLinear_Output", "w0", "b"),
        *rounded("b", "uint8"),
        product("second", "b_DequantizeLinear_Output", "w1", "c"),
        *rounded("c"),
        product("third", "c_DequantizeLinear_Output", "w2", "y"),
    ]
    return write("candidate", nodes, {"x": 0.03, "b": 0.08, "c": 4.0})
