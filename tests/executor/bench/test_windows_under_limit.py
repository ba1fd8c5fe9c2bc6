"""Windows under the kernel's limit: a budget holds while sessions are made and while they run.

A build tries the smallest budget under it anyway.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import pytest

from swapnet.budget import Budget
from swapnet.builder import build
from swapnet.builder.one_operator import one_operator_engine
from swapnet.executor.bench.bench import Setup, bench
from swapnet.executor.bench.rounds import Schedule
from swapnet.executor.engine import Engine
from swapnet.executor.inputs import planned_sample
from swapnet.manifest import WEIGHTS
from swapnet.process.cgroup import is_available
from tests.helpers.zoo import Net

pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("kernel memory"),
    pytest.mark.skipif(not is_available(), reason="no permission for cgroups with memory limits"),
]


def _model() -> onnx.ModelProto:
    """Two recurrent operators and four int4 products, 8 MiB."""
    net = Net()
    value = net.input("x", (4, 1, 256))
    for _ in range(2):
        value = net("LSTM", value, net.weight(1, 1024, 256), net.weight(1, 1024, 256))
        net.nodes[-1].attribute.append(onnx.helper.make_attribute("hidden_size", 256))
        value = net("Squeeze", value, net.constant(np.array([1])))
    value = net("MatMul", net("Squeeze", value, net.constant(np.array([1]))), net.weight(256, 1024))
    for _ in range(4):
        given = [value, net.weight(1024, 32, 16, dtype=np.uint8), net.scales(32768)]
        sizes = {"K": 1024, "N": 1024, "bits": 4, "block_size": 32, "accuracy_level": 4}
        value = net("Tanh", net("MatMulNBits", *given, domain="com.microsoft", **sizes))
    net.output(value)
    return net.model()


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("windows")
    onnx.save(_model(), folder / "model.onnx")
    manifest = build(folder / "model.onnx", folder / "engine", backend="onnxruntime")
    assert sum(bool(block.windows) for block in manifest.blocks) > 4
    return folder / "engine"


@pytest.mark.parametrize("limited", [True, False])
def test_a_budget_holds(engine: Path, tmp_path: Path, *, limited: bool) -> None:
    opened = Engine.open(engine).in_child()
    with (engine / WEIGHTS).open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)  # others read it
    setup = Setup(
        engine=opened,
        budget=Budget.parse("weights:25%"),
        inputs=dict(planned_sample(opened.manifest)),
        one_operator=one_operator_engine(tmp_path),
        memory_limit=limited,
        schedule=Schedule(iterations=5, warm_up_ms=0, duration_s=0, rounds=1),
    )
    report = bench(setup).report
    assert report.memory_accounting.startswith("kernel limit" if limited else "kernel")
    assert report.streamed_bytes
    assert report.peak_bytes <= report.budget_bytes
