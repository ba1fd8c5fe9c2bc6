"""One model: build an engine, run it in a quarter of its weights, compare with ONNX Runtime.

    swapnet models get resnet18             # makes a model of the zoo and prints its path
    python examples/one_model.py path/to/model.onnx engines/resnet18 --budget weights:25%

The inputs are random here. Outputs of the swapped and of the whole model differ in the last bits.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import onnxruntime

import swapnet


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model", help="ONNX file")
    parser.add_argument("engine", help="engine directory; built if it is not there")
    parser.add_argument("--budget", default="weights:25%")
    arguments = parser.parse_args()

    if not Path(arguments.engine).exists():
        swapnet.build(arguments.model, arguments.engine)
        swapnet.measure(arguments.engine)  # delays of this device, to plan with

    with swapnet.SwapExecutor(arguments.engine, arguments.budget) as executor:
        random = np.random.default_rng(0)
        shapes = executor.manifest.planned_shapes
        inputs = {
            tensor.name: random.random(shapes[tensor.name]).astype(tensor.dtype)
            for tensor in executor.manifest.inputs
        }
        for _ in range(3):
            outputs = executor(inputs)
        plan, last = executor.plan, executor.stats.last

    assert last is not None
    print(f"{plan.budget_bytes / 2**20:.1f} MiB of memory")
    print(f"{plan.streamed_bytes / 2**20:.1f} MiB read in every inference")
    print(f"{last.latency_ms:.1f} ms, {last.stall_ms:.1f} of it waiting for storage")

    session = onnxruntime.InferenceSession(arguments.model)
    for output, expected in zip(session.get_outputs(), session.run(None, inputs), strict=True):
        difference = np.abs(outputs[output.name] - expected).max() / np.abs(expected).max()
        print(f"{output.name}: differs by {difference:.0e} of its largest value")


if __name__ == "__main__":
    main()
