"""``python -m tests.evidence.slices``: a stack of long convolutions, in parts and whole.

Processor time of one thread, in turn, so that other work of the machine changes little: everything
in memory over ONNX Runtime, for parts by cost and for parts of the size that is asked for.
"""

from __future__ import annotations

import resource
from collections.abc import Callable
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np
import onnx
import onnxruntime

import swapnet
from swapnet.cli.console import say
from swapnet.executor.device import Device
from tests.helpers.zoo import Net

__all__ = ["long_convolutions"]

_LAYERS = ((1024, 512), (128, 64), (128, 64), (128, 64), (256, 64), (512, 64))
_FINE = "2619KiB"
"""Blocks of this size were made of the model without regard to cost."""

_ROUNDS = 7


def long_convolutions(samples: int = 1024) -> onnx.ModelProto:
    """Six convolutions of 512 x 1 and 64 x 1, each with a pool: the shape of a pitch model."""
    net = Net()
    value, inner = net.input("x", (4, 1, samples, 1)), 1
    for outer, length in _LAYERS:
        before = (length - 1) // 2
        value = net(
            "Conv",
            value,
            net.weight(outer, inner, length, 1),
            net.weight(outer),
            strides=[1 if inner > 1 else 4, 1],
            pads=[before, 0, length - 1 - before, 0],
        )
        value = net("MaxPool", net("Relu", value), kernel_shape=[2, 1], strides=[2, 1])
        inner = outer
    net.output(value)
    return net.model()


def _seconds(run: Callable[[], object]) -> float:
    """Processor time of a call."""
    before = resource.getrusage(resource.RUSAGE_SELF)
    run()
    after = resource.getrusage(resource.RUSAGE_SELF)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _ratio(folder: Path, model: Path) -> float:
    """Median over rounds of our time over that of ONNX Runtime, whose outputs are the same."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options)
    inputs = {"x": np.random.default_rng(0).standard_normal((4, 1, 1024, 1), np.float32)}
    with swapnet.SwapExecutor(folder, "100%", device=Device(1)) as executor:
        (found,) = executor(inputs).values()
        np.testing.assert_array_equal(found, session.run(None, inputs)[0])
        return median(
            _seconds(lambda: executor(inputs)) / _seconds(lambda: session.run(None, inputs))
            for _ in range(_ROUNDS)
        )


def main() -> None:
    """Build both engines and print their ratios."""
    with TemporaryDirectory() as folder:
        model = Path(folder) / "stack.onnx"
        onnx.save(long_convolutions(), model)
        for name, max_block in (("by cost", None), (_FINE, _FINE)):
            manifest = swapnet.build(model, Path(folder) / "engine", max_block=max_block)
            largest = max(manifest.block_bytes) / (1 << 20)
            ratio = _ratio(Path(folder) / "engine", model)
            say(f"{name}: largest block {largest:.1f} MiB, in memory {ratio:.3f} x unswapped")


if __name__ == "__main__":
    main()
