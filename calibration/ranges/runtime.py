"""What the observing process uses without a model, by the kernel's count."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np

from swapnet.arrays import save_npz
from swapnet.builder.build import build
from swapnet.calibration.ranges.child import observe_in_child
from swapnet.calibration.ranges.collect import (
    EXTREMES,
    PIECE,
    Extreme,
    extreme_name,
    histogram_bytes,
    means_bytes,
)
from swapnet.calibration.ranges.worker import Job
from swapnet.executor.device import Device, ThreadPool
from swapnet.executor.engine import Engine
from swapnet.files import working_folder
from swapnet.process.cgroup import MemoryGroup
from swapnet.progress import silent
from swapnet.ranges import Method

__all__ = ["fixed_bytes", "kept_bytes"]

_SAMPLES = 20


def kept_bytes(job: Job) -> int:
    """What a job keeps beside the model: means, or histograms. Extremes count as operators."""
    if job.method == "minmax":
        return means_bytes(sum(job.channels.values()))
    return histogram_bytes(job.method, len(job.tensors) + len(job.inputs))


@cache
def fixed_bytes(method: Method, threads: int) -> int:
    """Peak of a process that has imported what it needs and observes an engine of one operator.

    For histograms that includes ONNX Runtime's collector, and what it copies of a tensor.

    Raises
    ------
    BackendUnavailableError
        The kernel does not count here.
    """
    with working_folder("swapnet-") as folder:
        job = _job(folder, method, threads)
        # Libraries are then in the page cache, charged to nobody.
        observe_in_child(job, silent)
        with MemoryGroup(None) as group:
            observe_in_child(job, silent, group=group)
            return group.peak_bytes


def _job(folder: Path, method: Method, threads: int) -> Job:
    from onnx import TensorProto, ValueInfoProto, helper

    nodes = [helper.make_node("Relu", ["x"], ["y"])]
    outputs = ["y"]
    if method == "minmax":
        outputs = [extreme_name(0, operator) for operator in EXTREMES]
        nodes += [
            helper.make_node(operator, ["y"], [output], keepdims=0)
            for operator, output in zip(EXTREMES, outputs, strict=True)
        ]
    model = helper.make_model(
        helper.make_graph(
            nodes,
            "one_operator",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])],
            [ValueInfoProto(name=output) for output in outputs],
        ),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    path = folder / "one_operator.onnx"
    path.write_bytes(model.SerializeToString())
    build(path, folder / "engine", backend="onnxruntime")
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
