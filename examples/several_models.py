"""Several models under one budget: the first has a deadline, the others may wait.

    python examples/several_models.py engines/yolov3_tiny engines/resnet18 --budget 96MiB

The runtime splits the memory, and the earliest deadline computes first. The inputs are random.
"""

from __future__ import annotations

import argparse
import time

import numpy as np

import swapnet


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("engines", nargs="+", help="engine directories")
    parser.add_argument("--budget", default="96MiB", help="memory of all models together")
    parser.add_argument("--deadline-ms", type=float, default=200.0, help="of the first model")
    parser.add_argument("--requests", type=int, default=10, help="to each model")
    arguments = parser.parse_args()

    with swapnet.SwapRuntime(arguments.budget) as runtime:
        models, inputs = [], []
        for number, engine in enumerate(map(swapnet.Engine.open, arguments.engines)):
            name = f"{number}: {engine.folder.name}"
            models.append(
                runtime.load(engine, name=name, priority=2.0, deadline_ms=arguments.deadline_ms)
                if number == 0
                else runtime.load(engine, name=name)
            )
            shapes = engine.manifest.planned_shapes
            inputs.append(
                {t.name: np.ones(shapes[t.name], t.dtype) for t in engine.manifest.inputs}
            )

        latencies_ms: dict[str, list[float]] = {model.name: [] for model in models}
        for _ in range(arguments.requests):
            start = time.perf_counter()
            futures = [model.submit(given) for model, given in zip(models, inputs, strict=True)]
            for model, future in zip(models, futures, strict=True):  # the first is done first
                future.result()
                latencies_ms[model.name].append((time.perf_counter() - start) * 1e3)

        for model in models:
            share, latency = runtime.shares_bytes[model.name], np.median(latencies_ms[model.name])
            print(f"{model.name}: {share / 2**20:.1f} MiB for weights, median {latency:.1f} ms")


if __name__ == "__main__":
    main()
