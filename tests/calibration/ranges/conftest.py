"""Small models, their samples, and what they compute."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto

from swapnet.builder.rewriting.optimise import Operators, save_optimised
from tests.helpers.engines import Arrays
from tests.helpers.zoo import Net

__all__ = ["Toy"]


@dataclass(frozen=True)
class Toy:
    """A model as ONNX Runtime's basic optimisation leaves it, its weights beside it."""

    path: Path
    samples: Sequence[Arrays]

    def values(self) -> list[Arrays]:
        """Every float value that the model takes or computes, by sample, run whole."""
        proto = onnx.load_model(self.path, load_external_data=False)
        named = {output.name for output in proto.graph.output}
        proto.graph.output.extend(
            onnx.ValueInfoProto(name=name)
            for node in proto.graph.node
            for name in node.output
            if name not in named
        )
        whole = self.path.with_name("values.onnx")
        onnx.save_model(proto, whole)
        session = one_thread(whole)
        names = [output.name for output in session.get_outputs()]
        whole.unlink()
        runs = [dict(zip(names, session.run(None, s), strict=True)) | s for s in self.samples]
        return [{n: v for n, v in run.items() if v.dtype == np.float32} for run in runs]

    def left(self) -> list[str]:
        """Names of all files in the model's folder."""
        return sorted(path.name for path in self.path.parent.iterdir())


def one_thread(path: Path) -> onnxruntime.InferenceSession:
    """A session that runs a model as it is."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(path, options, ["CPUExecutionProvider"])


def toy_of(net: Net, folder: Path, samples: Sequence[Arrays]) -> Toy:
    """Write a model into ``folder`` as it is calibrated."""
    original = folder / "original"
    original.mkdir()
    onnx.save_model(net.model(), original / "net.onnx")
    path = save_optimised(original / "net.onnx", folder, operators=Operators.STANDARD)
    return Toy(path, samples)


def images(count: int, *shape: int) -> list[Arrays]:
    """Seeded inputs, each of another magnitude."""
    random = np.random.default_rng(1)
    return [
        {"x": (random.standard_normal(shape) * (1 + i) - 0.1 * i).astype(np.float32)}
        for i in range(count)
    ]


@pytest.fixture(scope="session")
def convolutions(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    """Two convolutions with a sum around the second, and a product."""
    net = Net()
    value = net("Conv", net.input("x", (1, 3, 16, 16)), net.weight(16, 3, 3, 3), net.weight(16))
    value = net("MaxPool", net("Relu", value), kernel_shape=[2, 2], strides=[2, 2])
    other = net("Conv", value, net.weight(16, 16, 3, 3), net.weight(16), pads=[1, 1, 1, 1])
    value = net("Sigmoid", net("Add", value, other))
    flat = net("Flatten", value)
    net.output(net("Gemm", flat, net.weight(784, 64), net.weight(64)))
    return toy_of(net, tmp_path_factory.mktemp("convolutions"), images(3, 1, 3, 16, 16))


@pytest.fixture
def products(tmp_path: Path) -> Toy:
    """Rows of any number, an embedding beside them, and an operator that may give NaN."""
    net = Net()
    rows, ids = net.input("x", ("rows", 64)), net.input("ids", ("rows",), TensorProto.INT64)
    value = net("Add", net.dense(rows, 64, 64), net("Gather", net.weight(32, 64), ids))
    net.output(
        net.dense(net("Sqrt", net("Add", value, net.constant(np.array([9.0], np.float32)))), 64, 64)
    )
    samples: list[Arrays] = [
        {"x": np.full((n, 64), 0.01 * n, np.float32), "ids": np.arange(n)} for n in (2, 5, 3)
    ]
    return toy_of(net, tmp_path, samples)
