"""A budget that changes while requests run: plans are made again, nothing is built again.

    python examples/changing_budget.py engines/resnet18 100% weights:50% weights:25% 1MiB 100%

A budget that is too small is refused with the smallest one that works, and the plan before stays
in force. The inputs are random here.
"""

from __future__ import annotations

import argparse
import threading
import time

import numpy as np

import swapnet


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("engine", help="engine directory")
    parser.add_argument("budgets", nargs="+", help="budgets, one after the other")
    parser.add_argument("--seconds", type=float, default=1.0, help="with each budget")
    arguments = parser.parse_args()

    with swapnet.SwapExecutor(arguments.engine, arguments.budgets[0]) as executor:
        shapes = executor.manifest.planned_shapes
        inputs = {t.name: np.ones(shapes[t.name], t.dtype) for t in executor.manifest.inputs}
        is_over = threading.Event()

        def requests() -> None:
            while not is_over.is_set():
                executor(inputs)

        worker = threading.Thread(target=requests)
        worker.start()
        for budget in arguments.budgets:
            try:
                executor.set_budget(budget)
            except swapnet.BudgetError as error:
                print(f"{budget}: refused, at least {error.smallest_bytes} bytes are needed")
                continue
            time.sleep(arguments.seconds)
            plan, last = executor.plan, executor.stats.last
            print(
                f"{budget}: {plan.planned_bytes / 2**20:.1f} MiB, "
                f"reads {plan.streamed_bytes / 2**20:.1f} MiB in every inference"
                + (f", {last.latency_ms:.1f} ms" if last else "")
            )
        is_over.set()
        worker.join()


if __name__ == "__main__":
    main()
