"""Whether models compute side by side or in turns, by measurement."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from swapnet.executor.device import Device
from swapnet.executor.planning.usage import demand
from swapnet.executor.runtime.runtime import SwapRuntime
from swapnet.manifest import load_manifest
from swapnet.tensors import Array

__all__ = ["Trial", "best_lanes", "measure_lanes"]

_WORTH = 0.95
"""Of the time with one lane: more must save at least the rest, for they need more memory."""


@dataclass(frozen=True)
class Trial:
    """One engine, its input shapes (those of the build where None), and an input."""

    folder: Path
    inputs: Mapping[str, Array]
    shapes: Mapping[str, Sequence[int]] | None = None


def measure_lanes(
    trials: Sequence[Trial],
    counts: Sequence[int] = (1, 2),
    *,
    device: Device | None = None,
    rounds: int = 5,
) -> dict[int, float]:
    """How long the engines take together, with everything in memory, over the first count's time.

    Parameters
    ----------
    trials
        Engines; in a round each is asked twice, all at the same moment.
    counts
        Lanes to try; they take turns.
    device
        Compute threads.
    rounds
        Of each count; ratios are paired within a round, and their median is returned.

    Returns
    -------
    dict
        Ratio by count; below 1 is faster.
    """
    budget = 2 * sum(demand(load_manifest(t.folder, t.shapes)).total_bytes for t in trials)
    with ExitStack() as stack:
        sides = {}
        for count in counts:
            runtime = SwapRuntime(budget, device=device, lanes=count)
            stack.enter_context(runtime)
            sides[count] = [
                runtime.load(trial.folder, name=str(index), shapes=trial.shapes)
                for index, trial in enumerate(trials)
            ]
        ratios: dict[int, list[float]] = {count: [] for count in counts}
        for _ in range(rounds + 1):
            taken = {}
            for count, models in sides.items():
                start = time.perf_counter()
                waiting = [
                    model.submit(trial.inputs)
                    for _ in range(2)
                    for model, trial in zip(models, trials, strict=True)
                ]
                for result in waiting:
                    result.result()
                taken[count] = time.perf_counter() - start
            for count in counts:
                ratios[count].append(taken[count] / taken[counts[0]])
    return {count: median(values[1:]) for count, values in ratios.items()}


def best_lanes(ratios: Mapping[int, float]) -> int:
    """The count of `measure_lanes` to use: 1, unless more are clearly faster."""
    count = min(ratios, key=lambda lanes: (ratios[lanes], lanes))
    return count if ratios[count] <= _WORTH else 1
