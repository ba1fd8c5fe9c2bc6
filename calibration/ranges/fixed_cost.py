"""Memory of the observing process beside the model: its fixed cost, and what it keeps of values."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np

from swapnet.arrays import save_npz
from swapnet.builder.build import build
from swapnet.builder.one_operator import one_operator_model
from swapnet.calibration.ranges.collect import PIECE, Extreme, histogram_bytes, means_bytes
from swapnet.calibration.ranges.graph import open_model
from swapnet.calibration.ranges.worker import Job, observe_in_child
from swapnet.executor.device import Device, ThreadPool
from swapnet.executor.engine import Engine
from swapnet.files import working_folder
from swapnet.process.cgroup import MemoryGroup
from swapnet.progress import silent
from swapnet.ranges import Method

__all__ = ["fixed_bytes", "kept_bytes"]

_SAMPLES = 20


def kept_bytes(job: Job) -> int:
    """Bytes that a job keeps of values: means or histograms; extremes count as operators."""
    if job.method == "minmax":
        return means_bytes(sum(job.channels.values()))
    return histogram_bytes(job.method, len(job.tensors) + len(job.inputs))


@cache
def fixed_bytes(method: Method, threads: int) -> int:
    """Peak of a process that observes an engine of one operator, in bytes.

    For histograms that includes ONNX Runtime's collector, and its copies of a tensor.

    Raises
    ------
    BackendUnavailableError
        The kernel does not count memory here.
    """
    with working_folder("swapnet-") as folder:
        job = _job(folder, method, threads)
        # Libraries are then in the page cache, charged to nobody.
        observe_in_child(job, silent)
        with MemoryGroup(None) as group:
            observe_in_child(job, silent, group=group)
            return group.peak_bytes


def _job(folder: Path, method: Method, threads: int) -> Job:
    model = open_model(one_operator_model(folder), folder)
    variant = (
        model.with_extremes(["y"], {}, "variant")
        if method == "minmax"
        else model.with_outputs(["y"], "variant")
    )
    build(variant.path, folder / "engine", backend="onnxruntime")
    engine = Engine.open(folder / "engine", device=Device(pool=ThreadPool.GLOBAL))
    piece = np.linspace(-1, 1, PIECE, dtype=np.float32)
    save_npz(folder / "sample.npz", {"x": np.ones(1, np.float32), "piece": piece})
    return Job(
        folder=str(engine.folder),
        budget_bytes=engine.demand.total_bytes,
        threads=threads,
        samples=(str(folder / "sample.npz"),) * _SAMPLES,
        method=method,
        tensors=("y",),
        inputs=() if method == "minmax" else ("piece",),
        percentile=100.0,
        known={"y": Extreme(1.0, 1.0), "piece": Extreme(-1.0, 1.0)},
    )
