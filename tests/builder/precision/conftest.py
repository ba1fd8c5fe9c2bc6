from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray

from swapnet.builder.importing.source import SourceModel, open_source
from swapnet.builder.precision.normalise import normalise
from swapnet.builder.precision.selection import activation_names
from swapnet.ranges import Range, RangeCache
from tests.helpers.zoo import Net

Arrays = Mapping[str, NDArray[np.float32]]
Normal = Callable[[onnx.ModelProto], SourceModel]


def convolutions(opset: int = 17, width: int = 32) -> onnx.ModelProto:
    """Normalisation to fold, a residual sum, pooling, and a product."""
    net = Net(seed=3)
    image = net.input("image", (1, 3, 12, 12))
    x = net("Conv", image, net.weight(width, 3, 3, 3), net.weight(width), pads=[1, 1, 1, 1])
    statistics = [net.constant(np.linspace(0.5, 1.5, width, dtype=np.float32)) for _ in range(4)]
    x = net("Relu", net("BatchNormalization", x, *statistics))
    y = net("Conv", x, net.weight(width, width, 3, 3), net.weight(width), pads=[1, 1, 1, 1])
    x = net("Relu", net("Add", x, y))
    x = net("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
    x = net("Flatten", net("GlobalAveragePool", x))
    x = net("Gemm", x, net.weight(width + 8, width), net.weight(width + 8), transB=1)
    net.output(x)
    return net.model(opset)


def feeds_of(model: onnx.ModelProto, seed: int = 0) -> dict[str, NDArray[np.float32]]:
    random = np.random.default_rng(seed)
    return {
        value.name: random.standard_normal(
            [dim.dim_value or 2 for dim in value.type.tensor_type.shape.dim], np.float32
        )
        for value in model.graph.input
    }


def run(
    model: Path | onnx.ModelProto, feeds: Arrays, *, optimise: bool = True
) -> dict[str, NDArray[np.float32]]:
    """Outputs of the model, by ONNX Runtime as it optimises it or operator by operator."""
    options = onnxruntime.SessionOptions()
    if not optimise:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    given = model.SerializeToString() if isinstance(model, onnx.ModelProto) else str(model)
    session = onnxruntime.InferenceSession(given, options, ["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(feeds)), strict=True))


def noise_db(reference: Arrays, other: Arrays) -> float:
    """The worst signal-to-noise ratio of all outputs, in decibels."""
    ratios = []
    for name, wanted in reference.items():
        noise = float(np.square(wanted - other[name], dtype=np.float64).sum())
        signal = float(np.square(wanted, dtype=np.float64).sum())
        ratios.append(10 * np.log10(signal / noise) if noise else np.inf)
    return min(ratios)


def ranges_by_running(source: SourceModel, *feeds: Arrays) -> RangeCache:
    """Least and greatest of every value that int8 needs, by ONNX Runtime unswapped."""
    names = activation_names(source.proto.graph)
    proto = onnx.load_model(source.path)
    given = {value.name for value in (*proto.graph.input, *proto.graph.output)}
    proto.graph.output.extend(onnx.ValueInfoProto(name=n) for n in names if n not in given)
    seen = [{**run(proto, feed), **feed} for feed in feeds]
    ranges = {
        name: Range(
            min(0.0, *(float(values[name].min()) for values in seen), 0.0),
            max(0.0, *(float(values[name].max()) for values in seen), 0.0),
        )
        for name in names
    }
    return RangeCache(
        schema="swapnet-ranges/1",
        model_sha256=source.sha256,
        model=source.name,
        method="minmax",
        samples=len(feeds),
        onnxruntime=onnxruntime.__version__,
        ranges=ranges,
    )


@pytest.fixture
def normal(tmp_path: Path) -> Normal:
    def normalised(model: onnx.ModelProto) -> SourceModel:
        path = tmp_path / "model.onnx"
        onnx.save_model(model, path)
        folder = tmp_path / "normal"
        folder.mkdir()
        return normalise(open_source(path), folder)

    return normalised
