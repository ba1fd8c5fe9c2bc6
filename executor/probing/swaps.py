"""Measure the time of a swap of each block on this GPU, in a child process.

The process runs an engine with nothing resident. Loading and execution overlap, so the longer of
the two counts.
"""

from __future__ import annotations

import sys
from pathlib import Path
from statistics import median

import msgspec

from swapnet.errors import BackendError, SwapnetError
from swapnet.executor.engine import Engine
from swapnet.executor.executor import SwapExecutor
from swapnet.executor.gpu.accelerator import Accelerator
from swapnet.executor.planning.plan import PlanOptions
from swapnet.executor.samples import sample_of
from swapnet.process.child import ask
from swapnet.process.serve import answering, serve

__all__ = ["measure_swaps", "swap_times"]

_MODULE = "swapnet.executor.probing.swaps"

_INFERENCES = 9
_STREAMED = PlanOptions(resident=False, merge=False, cyclic=False)
"""Plan with room for all blocks: each is read in every inference, and none waits for its place."""


class Job(msgspec.Struct, frozen=True):
    """Engine directory to measure."""

    folder: str


def measure_swaps(folder: Path) -> tuple[float, ...]:
    """`swap_times` in a child process: its end releases all memory of the runtime library.

    Raises
    ------
    BackendError
        The engine does not run here; the message has the child's error.
    """
    try:
        found: tuple[float, ...] = ask(
            _MODULE, Job(str(folder)), tuple[float, ...], verb="measures swaps"
        )
    except SwapnetError as error:
        raise BackendError(
            f"{folder.name} can't be measured on this GPU",
            why=f"{error.what}: {error.why}",
            hint="choose --weights external or embedded, which needs no measurement",
        ) from error
    return found


def swap_times(folder: Path, gpu: Accelerator | None = None) -> tuple[float, ...]:
    """Milliseconds of each block: the longer of its loading and its execution, warm medians.

    Parameters
    ----------
    folder
        Engine directory of a GPU backend.
    gpu
        GPU in place of the first one.

    Raises
    ------
    SwapnetError
        The engine does not open or does not run.
    """
    engine = Engine.open(folder)
    inputs = sample_of(engine)
    loads: list[list[float]] = []
    runs: list[list[float]] = []
    with SwapExecutor(engine, "100%", options=_STREAMED, trace=True, gpu=gpu) as executor:
        count = len(executor.manifest.blocks)
        executor(inputs)
        for _ in range(_INFERENCES):
            executor(inputs)
            last = executor.stats.last
            assert last is not None
            load, run = [0.0] * count, [0.0] * count
            for read in last.reads:
                load[read.block] += (read.end - read.start) * 1e3
            for step in last.steps:
                run[executor.plan.steps[step.step].first] = (step.end - step.start) * 1e3
            loads.append(load)
            runs.append(run)
    return tuple(
        max(median(load), median(run))
        for load, run in zip(zip(*loads, strict=True), zip(*runs, strict=True), strict=True)
    )


work = answering(Job, lambda job, _: swap_times(Path(job.folder)))
"""Measures the engine that the parent asks for."""

if __name__ == "__main__":
    sys.exit(serve(work))
