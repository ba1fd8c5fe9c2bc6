"""The time of `set_budget`: ``python -m tests.evidence.budgets ENGINE…``, in a quiet machine.

Budgets are random, between a sixth of the weights and all of them. After each change two inferences
are compared to the bit with those before, and timed: the first must not pay for the change.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from pathlib import Path

import click
import numpy as np

from swapnet.executor import SwapExecutor
from swapnet.executor.backends.onnxruntime import own_process
from swapnet.executor.device import Device
from swapnet.executor.engine import Engine
from swapnet.executor.inputs import planned_sample
from tests.evidence.command import run

_SHARES = 17, 100


def measured(folder: Path, changes: int, device: Device) -> list[str]:
    """Change the budget of an engine, and tell median, 90th percentile and maximum of each part.

    Parameters
    ----------
    folder
        The engine.
    changes
        Their number.
    device
        Compute threads.

    Raises
    ------
    AssertionError
        Outputs differ from those before.
    """
    engine = Engine.open(folder, device=device)
    inputs = planned_sample(engine.manifest)
    budgets = random.Random(5)
    parts: dict[str, list[float]] = {}
    with SwapExecutor(engine, "weights:25%") as executor:
        expected = executor(inputs)
        for _ in range(changes):
            budget = f"weights:{budgets.randint(*_SHARES)}%"
            before, begun, cpu = executor.stats, time.perf_counter(), time.process_time()
            executor.set_budget(budget)
            ended, cpu_ended = time.perf_counter(), time.process_time()
            state = executor._state
            assert state is not None
            found = {
                "set_budget": (ended - begun) * 1e3,
                "processor": (cpu_ended - cpu) * 1e3,
                "sessions": state.sessions_ms,
                "residents read": state.load_ms,
            }
            for name in ("first inference", "second"):
                begun = time.perf_counter()
                outputs = executor(inputs)
                found[name] = (time.perf_counter() - begun) * 1e3
                for output, array in expected.items():
                    np.testing.assert_array_equal(outputs[output], array)
            assert executor.stats.inferences == before.inferences + 2
            for name, ms in found.items():
                parts.setdefault(name, []).append(ms)
    return [f"{name} {_spread(times)}" for name, times in parts.items()]


def _spread(times: Sequence[float]) -> str:
    middle, late, last = np.percentile(times, (50, 90, 100))
    return f"{middle:.1f} / {late:.1f} / {last:.1f}"


@click.command()
@click.argument("engines", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--changes", default=50, show_default=True)
@click.option("--threads", default=2, show_default=True)
def command(engines: Sequence[Path], changes: int, threads: int) -> None:
    """Print median, 90th percentile and maximum of ENGINES' changes, in ms."""
    device = own_process(threads)
    for folder in engines:
        click.echo(f"{folder.name}: {', '.join(measured(folder, changes, device))}")


if __name__ == "__main__":
    run(command)
