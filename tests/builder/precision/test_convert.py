from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto

from swapnet.builder.importing.external_data import ExternalData, Part
from swapnet.builder.importing.source import SourceModel, open_source
from swapnet.builder.precision.convert import PrecisionOptions, convert, interchange
from swapnet.errors import InputError, ModelError
from swapnet.ranges import RangeCache
from tests.builder.precision.conftest import (
    Normal,
    convolutions,
    feeds_of,
    noise_db,
    ranges_by_running,
    run,
)
from tests.helpers.zoo import Net


def nothing(proto: onnx.ModelProto, exclude: Collection[str]) -> Collection[str]:
    del proto, exclude
    return ()


@pytest.fixture
def source(tmp_path: Path) -> SourceModel:
    path = tmp_path / "model.onnx"
    onnx.save_model(convolutions(), path)
    return open_source(path)


@pytest.fixture
def cache(normal: Normal) -> RangeCache:
    model = convolutions()
    return ranges_by_running(normal(model), *(feeds_of(model, seed) for seed in range(4)))


@pytest.mark.parametrize(
    ("backend", "kinds"),
    [
        ("onnxruntime", {TensorProto.UINT8}),
        ("tensorrt", {TensorProto.INT8}),
        ("tensorrt-rtx", {TensorProto.INT8}),
    ],
)
def test_int8_as_each_library_takes_it(
    source: SourceModel, cache: RangeCache, tmp_path: Path, backend: str, kinds: set[int]
) -> None:
    options = PrecisionOptions("int8", ranges=cache)
    converted = convert(source, options, tmp_path, backend=backend, slower=nothing)
    graph = onnx.load_model(converted.source.path).graph
    stored = {tensor.name: tensor for tensor in graph.initializer}
    quantising = [node for node in graph.node if node.op_type == "QuantizeLinear"]
    assert {stored[node.input[2]].data_type for node in quantising} == kinds
    if backend != "onnxruntime":
        points = [n.input[2] for n in graph.node if n.op_type.endswith("zeLinear")]
        assert not any(np.frombuffer(stored[p].raw_data, np.int8).any() for p in points)
    feeds = feeds_of(convolutions(), 9)
    assert noise_db(run(source.path, feeds), run(converted.source.path, feeds)) > 20
    assert (converted.source.name, converted.source.sha256) == (source.name, source.sha256)


@pytest.mark.parametrize(
    ("saturates", "portable", "limit"),
    [(False, False, 127), (True, False, 63), (False, True, 63), (True, True, 63)],
)
def test_weights_take_full_range_where_sums_have_room(
    source: SourceModel,
    cache: RangeCache,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    saturates: bool,
    portable: bool,
    limit: int,
) -> None:
    monkeypatch.setattr("swapnet.builder.precision.convert.int8_saturates", lambda: saturates)
    converted = convert(
        source,
        PrecisionOptions("int8", ranges=cache),
        tmp_path,
        backend="onnxruntime",
        portable=portable,
        slower=nothing,
    )
    assert converted.full_range == (limit == 127)
    stored = onnx.load_model(converted.source.path).graph.initializer
    weights = [
        np.frombuffer(tensor.raw_data, np.int8)
        for tensor in stored
        if tensor.data_type == TensorProto.INT8 and len(tensor.dims) > 1
    ]
    assert {int(np.abs(weight).max()) for weight in weights} == {limit}


def test_int8_on_the_cpu_leaves_no_float_between_convolutions(
    source: SourceModel, cache: RangeCache, tmp_path: Path
) -> None:
    options = PrecisionOptions("int8", ranges=cache)
    converted = convert(source, options, tmp_path, backend="onnxruntime", slower=nothing)
    session = onnxruntime.SessionOptions()
    session.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    session.log_severity_level = 4
    onnxruntime.InferenceSession(str(converted.source.path), session)
    kinds = [node.op_type for node in onnx.load_model(tmp_path / "optimised.onnx").graph.node]
    assert kinds.count("QLinearConv") == 2
    assert kinds.count("QGemm") == 1
    assert kinds.count("QuantizeLinear") == 1
    assert "Conv" not in kinds
    assert "Gemm" not in kinds


def test_operators_that_int8_makes_slower_stay_float(
    source: SourceModel, cache: RangeCache, tmp_path: Path
) -> None:
    def products(proto: onnx.ModelProto, exclude: Collection[str]) -> Collection[str]:
        assert exclude == ()
        return [node.name for node in proto.graph.node if node.op_type == "Gemm"]

    options = PrecisionOptions("int8", ranges=cache)
    converted = convert(source, options, tmp_path, backend="onnxruntime", slower=products)
    graph = onnx.load_model(converted.source.path).graph
    gemm = next(node for node in graph.node if node.op_type == "Gemm")
    stored = {tensor.name: tensor.data_type for tensor in graph.initializer}
    assert stored[gemm.input[1]] == TensorProto.FLOAT
    assert converted.narrow == "int8"
    assert gemm.name not in converted.keep


def test_excluded_operators_stay_float(
    source: SourceModel, cache: RangeCache, tmp_path: Path
) -> None:
    first = convolutions().graph.node[0]
    name = first.name
    for backend in ("onnxruntime", "tensorrt"):
        options = PrecisionOptions("int8", ranges=cache, exclude=(name,))
        converted = convert(source, options, tmp_path, backend=backend, slower=nothing)
        graph = onnx.load_model(converted.source.path).graph
        conv = next(node for node in graph.node if node.name == name)
        stored = {tensor.name: tensor.data_type for tensor in graph.initializer}
        assert stored[conv.input[1]] == TensorProto.FLOAT
    options = PrecisionOptions("fp16", exclude=(name,))
    converted = convert(source, options, tmp_path, backend="onnxruntime", slower=nothing)
    assert converted.narrow == "float16"
    assert {name, "relu2.0_nchwc"} <= converted.keep
    with pytest.raises(InputError, match="no operator 'other'"):
        convert(
            source,
            replace(options, exclude=("other",)),
            tmp_path,
            backend="onnxruntime",
            slower=nothing,
        )


@pytest.mark.parametrize("per_channel", [True, False])
def test_weight_only_needs_no_ranges(
    source: SourceModel, tmp_path: Path, per_channel: bool
) -> None:
    options = PrecisionOptions("int8", weight_only=True, per_channel=per_channel)
    converted = convert(source, options, tmp_path, backend="tensorrt", slower=nothing)
    graph = onnx.load_model(converted.source.path).graph
    assert "QuantizeLinear" not in {node.op_type for node in graph.node}
    scales = [n.input[1] for n in graph.node if n.op_type == "DequantizeLinear"]
    stored = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    assert [stored[name] for name in scales] == ([[32], [32], [40]] if per_channel else [[]] * 3)
    feeds = feeds_of(convolutions())
    wanted = run(source.path, feeds)
    assert noise_db(wanted, run(converted.source.path, feeds)) > 30
    on_cpu = convert(source, options, tmp_path, backend="onnxruntime", slower=nothing)
    assert (on_cpu.source, on_cpu.narrow) == (source, "int8")


def test_float16(source: SourceModel, tmp_path: Path) -> None:
    options = PrecisionOptions("fp16")
    on_cpu = convert(source, options, tmp_path, backend="onnxruntime", slower=nothing)
    assert (on_cpu.source, on_cpu.narrow) == (source, "float16")
    on_gpu = convert(source, options, tmp_path, backend="onnxruntime-cuda", slower=nothing)
    assert on_gpu.narrow is None
    assert on_gpu.source.weights_bytes < 0.6 * source.weights_bytes


def test_float32_is_the_model_itself(source: SourceModel, tmp_path: Path) -> None:
    converted = convert(source, PrecisionOptions(), tmp_path, backend="onnxruntime", slower=nothing)
    assert converted.source is source
    assert converted.narrow is None


def test_nothing_to_compute_in_int8(tmp_path: Path) -> None:
    net = Net()
    net.output(net("Relu", net.input("x", (2, 3))))
    path = tmp_path / "model.onnx"
    onnx.save_model(net.model(), path)
    opened = open_source(path)
    cache = RangeCache("swapnet-ranges/1", opened.sha256, "model", "minmax", 1, "1", {})
    with pytest.raises(ModelError, match="nothing of model computes in int8"):
        interchange(opened, PrecisionOptions("int8", ranges=cache), tmp_path)


def test_ranges_of_another_model_are_refused(
    source: SourceModel, cache: RangeCache, tmp_path: Path
) -> None:
    import msgspec

    other = msgspec.structs.replace(cache, model_sha256="0" * 64)
    with pytest.raises(InputError, match="another model") as caught:
        interchange(source, PrecisionOptions("int8", ranges=other), tmp_path)
    assert source.sha256[:12] in caught.value.why
    tuned = replace(source, data=ExternalData.of([Part(tmp_path / "tuned.data", 0, 4)]))
    (tmp_path / "tuned.data").write_bytes(b"more")
    with pytest.raises(InputError, match="another model"):
        interchange(tuned, PrecisionOptions("int8", ranges=cache), tmp_path)
    fewer = msgspec.structs.replace(cache, ranges={})
    with pytest.raises(InputError, match="lacks"):
        interchange(source, PrecisionOptions("int8", ranges=fewer), tmp_path)


@pytest.mark.parametrize(
    ("options", "backend", "message"),
    [
        (PrecisionOptions("int8"), "onnxruntime", "needs the ranges"),
        (PrecisionOptions("int8"), "onnxruntime-cuda", "does not compute in int8"),
        (PrecisionOptions(weight_only=True), "onnxruntime", "--weight-only is not for fp32"),
        (PrecisionOptions("fp16", weight_only=True), "tensorrt-rtx", "float16 weights alone"),
        (PrecisionOptions(exclude=("a",)), "tensorrt", "--exclude is not for fp32"),
        (PrecisionOptions("int4"), "tensorrt", "int4 is not for tensorrt"),
        (PrecisionOptions("int4"), "onnxruntime-cuda", "int4 is not for onnxruntime-cuda"),
        (PrecisionOptions("int4", block_size=48), "onnxruntime", "block size of 48"),
        (PrecisionOptions("int8", block_size=32), "onnxruntime", "not for int8"),
    ],
)
def test_what_does_not_go_together(options: PrecisionOptions, backend: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        options.check(backend)


@pytest.mark.parametrize(
    ("options", "backend", "uses"),
    [
        (PrecisionOptions(), "onnxruntime", False),
        (PrecisionOptions("fp16"), "onnxruntime", False),
        (PrecisionOptions("fp16"), "tensorrt", True),
        (PrecisionOptions("int8"), "onnxruntime", True),
        (PrecisionOptions("int8", weight_only=True), "onnxruntime", False),
        (PrecisionOptions("int8", weight_only=True), "tensorrt", True),
        (PrecisionOptions("int4"), "onnxruntime", False),
    ],
)
def test_ranges_are_used_where_the_model_changes(
    options: PrecisionOptions, backend: str, uses: bool
) -> None:
    assert options.uses_ranges(backend) is uses
