"""The process that observes: a `Job` in, extremes and means out.

It imports neither `onnx` nor the builder, except for histograms: their collector does.
"""

from __future__ import annotations

import sys
from typing import Literal

import msgspec
import numpy as np

from swapnet.arrays import Array
from swapnet.calibration.ranges.collect import Collector, Extreme, Extremes, Histograms, Means
from swapnet.executor.engine import Engine
from swapnet.executor.executor import SwapExecutor
from swapnet.process.cgroup import MemoryGroup
from swapnet.process.child import ask
from swapnet.process.serve import answering, serve
from swapnet.progress import Progress

__all__ = ["Found", "Job", "observe", "observe_in_child"]

_MODULE = "swapnet.calibration.ranges.worker"


class Job(msgspec.Struct, frozen=True):
    """One pass over the samples.

    Attributes
    ----------
    folder
        Engine directory of a model with the observed values as outputs.
    budget_bytes
        Budget of the executor.
    samples
        Paths of ``.npz`` files.
    method
        ``minmax`` where the engine gives extremes, else it gives the tensors.
    tensors, inputs
        Computed values and model inputs to observe.
    known
        Extremes of all of them, for histograms.
    channels
        Number of channels by tensor, where the engine gives their means.
    """

    folder: str
    budget_bytes: int
    threads: int
    samples: tuple[str, ...]
    method: Literal["minmax", "entropy", "percentile"]
    tensors: tuple[str, ...]
    inputs: tuple[str, ...]
    percentile: float = 100.0
    known: dict[str, Extreme] = {}
    channels: dict[str, int] = {}


class Found(msgspec.Struct, frozen=True):
    """Extremes and means by tensor.

    ``infinite`` are computed tensors with infinite elements, whose extremes are not found yet.
    """

    extremes: dict[str, Extreme]
    means: dict[str, tuple[float, ...]] = {}
    infinite: tuple[str, ...] = ()


def observe(engine: Engine, job: Job, progress: Progress) -> Found:
    """Run the samples in this process, one in memory at a time.

    Raises
    ------
    InputError
        A value is NaN.
    SwapnetError
        The engine does not open or run.
    """
    collector, means = _collector(job), Means(job.channels)
    total = len(job.samples)
    with SwapExecutor(engine, job.budget_bytes) as executor:
        names = [tensor.name for tensor in executor.manifest.inputs]
        progress("observe", 0, total)
        for number, path in enumerate(job.samples):
            sample = _load(path)
            outputs = executor({name: sample[name] for name in names})
            collector.add(number, sample, outputs)
            means.add(outputs)
            del sample, outputs
            progress("observe", number + 1, total)
    return Found(collector.found(), means.found(), tuple(collector.infinite))


def _load(path: str) -> dict[str, Array]:
    """Load a sample; `load_npz` reads a file twice, which would count in memory."""
    with np.load(path, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def _collector(job: Job) -> Collector:
    if job.method == "minmax":
        return Extremes(job.tensors, job.inputs)
    return Histograms(job.method, job.percentile, job.known)


def observe_in_child(
    job: Job,
    progress: Progress,
    *,
    group: MemoryGroup | None = None,
    limit_bytes: int | None = None,
) -> Found:
    """Run a job in a process of its own; takes a group and raises as `ask`."""
    found: Found = ask(
        _MODULE, job, Found, progress, verb="calibrates", group=group, limit_bytes=limit_bytes
    )
    return found


def _observe(job: Job, progress: Progress) -> Found:
    return observe(Engine.open(job.folder).on_threads(job.threads, own=True), job, progress)


work = answering(Job, _observe)
"""Observes what the parent asks for."""


if __name__ == "__main__":
    sys.exit(serve(work))
