"""A model with values whose size depends on data; run as a program, two of it in a small budget.

    python -m tests.helpers.growing ENGINE BUDGET PROCESSES

The process joins a memory group by the file PROCESSES before it opens a runtime, asks one model for
more than was measured, and writes the shares before and after, as JSON.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
import onnx

from swapnet.executor import SwapRuntime
from swapnet.executor.device import Device
from tests.helpers.engines import Arrays
from tests.helpers.zoo import Net

__all__ = ["ROWS", "choosing", "rows_model"]

ROWS = 2048


def rows_model() -> onnx.ModelProto:
    """Rows of ``x`` with a score above 2.5: of seeded scores one in a hundred."""
    net = Net()
    chosen = net("Greater", net.input("score", (ROWS,)), net.constant(np.array(2.5, np.float32)))
    rows = net("Gather", net.input("x", (ROWS, 256)), net("Squeeze", net("NonZero", chosen)))
    for _ in range(4):
        rows = net.dense(net("Relu", net.dense(rows, 256, 1024)), 1024, 256)
    net.output(net("ReduceMax", rows, axes=[0], keepdims=0))
    return net.model()


def choosing(count: int) -> Arrays:
    """Inputs of which ``count`` rows are chosen."""
    random = np.random.default_rng(0)
    score = np.zeros(ROWS, np.float32)
    score[:count] = 3
    return {"score": score, "x": random.standard_normal((ROWS, 256), np.float32)}


def _run(engine: str, budget_bytes: int, processes: Path) -> None:
    feeds = [choosing(5), choosing(1500)]
    device = Device(1)
    with SwapRuntime("256MiB", device=device) as warm_up:
        warm_up.load(engine)(feeds[0])
    processes.write_text(str(os.getpid()))
    with SwapRuntime(budget_bytes, device=device) as runtime:
        models = [runtime.load(engine, name=name) for name in ("detector", "other")]
        for model in models:
            model(feeds[0])
        before = runtime.shares_bytes
        for _ in range(3):
            for model in models:
                model(feeds[model is models[0]])
        after = runtime.shares_bytes
    sys.stdout.write(json.dumps({name: (before[name], after[name]) for name in before}))


if __name__ == "__main__":
    _run(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
