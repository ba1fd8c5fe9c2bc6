"""Weights of the encoders of the zoo by name, as other libraries take them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

__all__ = ["state_dict"]


def state_dict(path: Path) -> dict[str, NDArray[np.float32]]:
    """Return the weights of an encoder written to `path`, as a checkpoint has them.

    Names are those of Hugging Face's ``BertModel``, and a linear weight is (out, in).
    """
    graph = onnx.load(path, load_external_data=False).graph
    transposed = {node.input[1] for node in graph.node if node.op_type == "MatMul"}

    def values(tensor: TensorProto) -> NDArray[np.float32]:
        array = np.asarray(numpy_helper.to_array(tensor, str(path.parent)), np.float32)
        return np.ascontiguousarray(array.T if tensor.name in transposed else array)

    return {
        tensor.name: values(tensor)
        for tensor in graph.initializer
        if tensor.data_location == TensorProto.EXTERNAL
    }
