"""The curve: latency over budget, predicted and measured, as a picture.

    python examples/curve.py engines/resnet18 curve.png

`swapnet plan engines/resnet18 --report curve.html` draws the prediction alone.
"""

from __future__ import annotations

import argparse
from statistics import median

import matplotlib.pyplot as plt
import numpy as np

import swapnet


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("engine", help="engine directory")
    parser.add_argument("picture", help="file to write: .png, .svg or .pdf")
    parser.add_argument("--points", type=int, default=8, help="number of budgets")
    parser.add_argument("--inferences", type=int, default=10, help="at each budget")
    arguments = parser.parse_args()

    sizes_mib, predicted_ms, measured_ms = [], [], []
    with swapnet.SwapExecutor(arguments.engine, "100%") as executor:
        shapes = executor.manifest.planned_shapes
        inputs = {t.name: np.ones(shapes[t.name], t.dtype) for t in executor.manifest.inputs}
        for share in np.linspace(0, 100, arguments.points):
            executor.set_budget(f"weights:{share:.0f}%")
            latencies_ms = []
            for _ in range(arguments.inferences):
                executor(inputs)
                last = executor.stats.last
                assert last is not None
                latencies_ms.append(last.latency_ms)
            sizes_mib.append(executor.plan.budget_bytes / 2**20)
            predicted_ms.append(executor.plan.predicted_ms)
            measured_ms.append(median(latencies_ms))
            print(f"{sizes_mib[-1]:6.1f} MiB {predicted_ms[-1]:7.1f} {measured_ms[-1]:7.1f} ms")

    figure, axes = plt.subplots(layout="constrained")
    axes.plot(sizes_mib, predicted_ms, label="predicted")
    axes.plot(sizes_mib, measured_ms, "o", label="measured")
    axes.set(xlabel="budget [MiB]", ylabel="latency [ms]", ylim=(0, None))
    axes.legend()
    figure.savefig(arguments.picture)


if __name__ == "__main__":
    main()
