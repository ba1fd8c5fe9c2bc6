"""The smallest engine: the process that runs it takes what every process of ours takes."""

from __future__ import annotations

from pathlib import Path

from onnx import TensorProto, helper

from swapnet.builder.build import build

__all__ = ["one_operator_engine", "one_operator_model"]


def one_operator_engine(folder: Path) -> Path:
    """Build an engine of one operator in an empty folder; its process has the fixed cost of any.

    Returns
    -------
    Path
        The engine directory.
    """
    build(one_operator_model(folder), folder / "one_operator", backend="onnxruntime")
    return folder / "one_operator"


def one_operator_model(folder: Path) -> Path:
    """Write the ONNX file of that engine: a Relu of ``x``, float32 of shape (1,), is ``y``."""
    model = helper.make_model(
        helper.make_graph(
            [helper.make_node("Relu", ["x"], ["y"])],
            "one_operator",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])],
        ),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    path = folder / "one_operator.onnx"
    path.write_bytes(model.SerializeToString())
    return path
