"""Which operators get windows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from swapnet.builder import build
from swapnet.builder.compilers import windows
from swapnet.builder.compilers.packing import Packed
from swapnet.builder.importing.graph import Constant, Graph
from swapnet.builder.importing.lookup import is_lookup, table_parts
from swapnet.builder.rewriting.optimise import Operators
from swapnet.builder.rewriting.rows_first import gather_rows_first
from swapnet.builder.rewriting.slicing import slice_operators
from swapnet.executor import SwapExecutor
from swapnet.executor.inputs import planned_sample
from swapnet.executor.planning.planner import smallest_budget
from tests.helpers.engines import BuildToy
from tests.helpers.zoo import Net

pytestmark = pytest.mark.xdist_group("packing")


@pytest.fixture(autouse=True)
def _needs_windows(engine: BuildToy) -> None:
    if not engine("packing").manifest.has_windows:
        pytest.skip("this ONNX Runtime does not compare what it has packed")


def _model(*, pays: bool, small: bool = False) -> onnx.ModelProto:
    """A product of floats, and perhaps one of integers."""
    net = Net()
    value = net("Tanh", net.dense(net.input("x", (3, 64)), 64, 192))
    if pays:
        width = 32 if small else 192
        rows, _, zero = net.several("DynamicQuantizeLinear", value, outputs=3)
        value = net("MatMulInteger", rows, net.weight(192, width, dtype=np.int8), zero)
    net.output(value)
    return net.model()


@pytest.mark.parametrize(
    ("pays", "small", "portable", "expected"),
    [
        (True, False, False, 2),
        (True, False, True, 0),
        (True, True, False, 0),
        (False, False, False, 0),
    ],
)
def test_a_model_has_windows_where_any_operator_gains(
    tmp_path: Path, pays: bool, small: bool, portable: bool, expected: int
) -> None:
    onnx.save(_model(pays=pays, small=small), tmp_path / "model.onnx")
    manifest = build(
        tmp_path / "model.onnx",
        tmp_path / "engine",
        backend="onnxruntime",
        max_block="64KiB",
        portable=portable,
    )
    assert sum(len(block.windows) for block in manifest.blocks) == expected


def test_operators_whose_packed_weights_are_not_saved_keep_inputs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(packed: Packed, constants: list[Constant]) -> list[str]:
        integers = any(node.op_type == "MatMulInteger" for node in packed.model.graph.node)
        return [constant.name for constant in constants if integers]

    monkeypatch.setattr(windows, "unpacked_copies", refuse)
    onnx.save(_model(pays=True), tmp_path / "model.onnx")
    manifest = build(tmp_path / "model.onnx", tmp_path / "engine", backend="onnxruntime")
    assert not manifest.has_windows
    assert "weights of MatMulInteger stay inputs" in caplog.text


def test_products_of_few_bits_that_are_never_packed_keep_inputs(
    import_model: Callable[..., Graph], caplog: pytest.LogCaptureFixture
) -> None:
    net = Net()
    value = net.input("x", (3, 256))
    sizes: dict[str, Any] = {"K": 256, "N": 512, "bits": 4, "block_size": 32, "accuracy_level": 4}
    order = net.constant(np.repeat(np.arange(8, dtype=np.int32), 32))
    for more in ([net.weight(512, 4, dtype=np.uint8)], [net.weight(4096)], ["", order], []):
        given = [value, net.weight(512, 8, 16, dtype=np.uint8), net.scales(512, 8), *more]
        net.output(net("MatMulNBits", *given, domain="com.microsoft", **sizes))
    graph = windows.with_packing(import_model(net.model(), operators=Operators.HARDWARE))
    assert graph.packing == {net.outputs[0].name, net.outputs[3].name}
    assert {name for name in ("of floats", "in another order") if name in caplog.text} == {
        "of floats",
        "in another order",
    }


def test_a_small_slice_of_a_table_stays_a_weight(import_model: Callable[..., Graph]) -> None:
    """Rows are looked up in all slices of a table that is multiplied too."""
    net = Net()
    sizes: dict[str, Any] = {"bits": 8, "block_size": 64, "domain": "com.microsoft"}
    rows, blocks = (33 << 14) // 32, net.weight((33 << 14) // 32, 2, 64, dtype=np.uint8)
    weight = [blocks, net.scales(rows, 2)]
    value, level = net.input("x", (3, 128)), {"accuracy_level": 4}
    product = net("MatMulNBits", value, *weight, K=128, N=rows, **sizes, **level)
    table = net("Reshape", blocks, net.constant(np.array([rows, 128])))
    ids = net.input("ids", (3,), onnx.TensorProto.INT64)
    net.output(product, net("GatherBlockQuantized", table, ids, weight[1], **sizes))
    graph = import_model(net.model(), operators=Operators.HARDWARE)
    graph = windows.with_packing(slice_operators(gather_rows_first(graph), 1 << 17))
    (lookup,) = (node for node in graph.nodes if is_lookup(graph, node))
    parts = [graph.constants[name] for name in table_parts(graph, lookup.input[0])]
    assert graph.packing
    assert sum(part.shape[0] for part in parts) == rows
    assert min(part.nbytes for part in parts) < windows.SMALLEST_BYTES


def test_equal_weights_of_one_block_have_their_windows(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    net = Net()
    value, _, zero = net.several("DynamicQuantizeLinear", net.input("x", (3, 192)), outputs=3)
    weight = np.random.default_rng(0).integers(-9, 9, (192, 192), np.int8)
    products = [net("MatMulInteger", value, net.constant(weight.copy()), zero) for _ in range(2)]
    net.output(net("Concat", *products, axis=1))
    onnx.save(net.model(), tmp_path / "model.onnx")
    manifest = build(tmp_path / "model.onnx", tmp_path / "engine", backend="onnxruntime")
    (block,) = manifest.blocks
    assert block.windows
    feeds = dict(planned_sample(manifest))
    expected = onnx_outputs(tmp_path / "model.onnx", feeds)
    with SwapExecutor(tmp_path / "engine", "100%") as executor:
        for _ in range(2):
            for found, wanted in zip(executor(feeds).values(), expected, strict=True):
                np.testing.assert_array_equal(found, wanted)
    assert "page cache" not in caplog.text


def test_a_table_that_is_packed_too_is_stored_once(tmp_path: Path) -> None:
    net = Net()
    table = net.weight(4096, 96)
    rows = net("Gather", table, net.input("ids", (3,), onnx.TensorProto.INT64))
    value, scale, zero = net.several("DynamicQuantizeLinear", rows, outputs=3)
    value = net("MatMulInteger", value, net.weight(96, 480, dtype=np.int8), zero)
    value = net("Mul", net("Cast", value, to=onnx.TensorProto.FLOAT), scale)
    value = net("Tanh", net("MatMul", value, net.weight(480, 96)))
    net.output(net("Gemm", value, table, transB=1))
    net.output(net("Gemm", net("Sigmoid", value), table, transB=1))
    onnx.save(net.model(), tmp_path / "model.onnx")
    manifest = build(
        tmp_path / "model.onnx", tmp_path / "engine", backend="onnxruntime", max_block="2MiB"
    )
    lookups = [block for block in manifest.blocks if block.lookup]
    windows = [w for block in manifest.blocks for w in block.windows if w.name == table]
    stored = [w for block in manifest.blocks for w in block.weights if w.name == table]
    assert len(lookups) == 1
    assert windows
    assert not stored
    assert manifest.weights_nbytes < (1 + len(windows)) * 4096 * 96 * 4 + (1 << 20)
    feeds = {"ids": np.array([0, 4095, 7])}
    expected = onnx_outputs(tmp_path / "model.onnx", feeds)
    smallest, _ = smallest_budget(manifest)
    with SwapExecutor(tmp_path / "engine", smallest, verify=True) as executor:
        for _ in range(2):
            for found, wanted in zip(executor(feeds).values(), expected, strict=True):
                np.testing.assert_array_equal(found, wanted)


def onnx_outputs(path: Path, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    import onnxruntime

    outputs: list[np.ndarray] = onnxruntime.InferenceSession(path).run(None, feeds)
    return outputs
