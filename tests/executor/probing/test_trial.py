"""Memory that no part of a plan explains is measured, in the user's process and in ours."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from swapnet.builder import build
from swapnet.executor.planning.plan import PlanOptions
from swapnet.executor.planning.planner import make_plan
from swapnet.executor.planning.usage import least_weights_bytes, usage
from swapnet.profile import assumed_profile
from tests.helpers.zoo import Net

MIB = 1 << 20

pytestmark = pytest.mark.slow


def test_memory_of_kernels_outside_of_the_arena_counts(tmp_path: Path) -> None:
    """A product of unpacked int4 weights widens all of them, in memory of the C library.

    Those with float zero points are never packed.
    """
    net = Net()
    size = 1024
    value = net.input("x", (4, size))
    for _ in range(2):
        packed = net.weight(size, size // 32, 16, dtype=np.uint8)
        scales, zeros = net.scales(size * size // 32), net.scales(size * size // 32)
        value = net(
            "MatMulNBits",
            value,
            packed,
            scales,
            zeros,
            domain="com.microsoft",
            K=size,
            N=size,
            bits=4,
            block_size=32,
        )
    net.output(value)
    onnx.save(net.model(), tmp_path / "int4.onnx")
    memory = build(tmp_path / "int4.onnx", tmp_path / "engine").session_memory
    widened = 4 * size * size
    assert memory.own_process_bytes >= widened
    assert memory.process_bytes >= widened


def test_constants_that_can_not_be_swapped_count_and_are_named(tmp_path: Path) -> None:
    net = Net()
    size = 2048
    random = np.random.default_rng(0).integers(0, 256, size * size // 2, np.uint8)
    net.weights.append(
        helper.make_tensor("q", TensorProto.INT4, [size, size], random.tobytes(), raw=True)
    )
    widened = net("DequantizeLinear", "q", net.scales(size, size // 32), axis=1, block_size=32)
    net.output(net("Gemm", net.input("x", (2, size)), widened, transB=1))
    onnx.save(net.model(opset=21), tmp_path / "int4.onnx")
    manifest = build(tmp_path / "int4.onnx", tmp_path / "engine")
    assert manifest.inline["int4"] >= size * size // 2
    assert usage(manifest).process_bytes >= size * size // 2


def test_steps_of_several_blocks_need_no_more(tmp_path: Path) -> None:
    """Two wide values are never alive at once, however many blocks a step has."""
    net = Net()
    value = net.input("x", (1, 8, 64, 64))
    for _ in range(3):
        wide = net("Relu", net("Conv", value, net.weight(256, 8, 1, 1)))
        value = net("Conv", wide, net.weight(8, 256, 1, 1))
    net.output(value)
    onnx.save(net.model(), tmp_path / "wide.onnx")
    manifest = build(tmp_path / "wide.onnx", tmp_path / "engine", max_block="4KiB")
    used, wide_bytes = usage(manifest), 256 * 64 * 64 * 4
    assert wide_bytes < used.activation_bytes < 2 * wide_bytes
    without_strips = used.total_bytes + least_weights_bytes(manifest)
    profile = assumed_profile(manifest)
    options = PlanOptions(strips=False)
    plan = make_plan(manifest, profile, without_strips, options)
    assert plan.planned_bytes <= without_strips
    whole = make_plan(manifest, profile, 64 * MIB, options)
    assert whole.usage == plan.usage == used
    assert len(whole.steps) < len(plan.steps)
