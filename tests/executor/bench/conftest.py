"""Rounds and reports as if they had been measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from swapnet.arrays import Array
from swapnet.budget import Budget
from swapnet.executor.bench.bench import Findings
from swapnet.executor.bench.report import Machine, Part, Peer, Report
from swapnet.executor.bench.statistics import summarise
from swapnet.executor.bench.timing import Opening, Round, Timing
from swapnet.executor.bench.verdict import Advice
from swapnet.executor.engine import Engine
from swapnet.executor.planning.admission import admitted_bytes
from swapnet.executor.planning.curve import Point
from swapnet.executor.planning.planner import make_plan
from swapnet.manifest import Manifest
from swapnet.testing.engine import write_engine

MIB = 1 << 20
CURVE = (
    Point(20 * MIB, 130.0, 120.0, 180 * MIB, 0),
    Point(64 * MIB, 104.0, 95.0, 100 * MIB, 32 * MIB),
    Point(200 * MIB, 96.0, 95.0, 0, 180 * MIB),
)


def a_peer(ratio: float | None = 7.0, **fields: Any) -> Peer:
    """Another side of this ratio; None for one that failed."""
    latency = None if ratio is None else summarise([100 * ratio])
    return Peer(latency_ms=latency, ratio=ratio, **fields)


def a_report(**fields: Any) -> Report:
    """A report in which everything holds."""
    usual: dict[str, Any] = {
        "model": "toy",
        "backend": "onnxruntime",
        "engine_bytes": 182 * MIB,
        "blocks": 33,
        "budget": "weights:25%",
        "budget_bytes": 64 * MIB,
        "demand_bytes": 200 * MIB,
        "weights_bytes": 180 * MIB,
        "resident_bytes": 32 * MIB,
        "ring_bytes": 16 * MIB,
        "activation_bytes": 8 * MIB,
        "staging_bytes": 4 * MIB,
        "peak_bytes": 60 * MIB,
        "fixed_bytes": 40 * MIB,
        "memory_accounting": "kernel limit",
        "streamed_bytes": 100 * MIB,
        "storage_bytes_per_s": 1.5e9,
        "opening": an_opening(),
        "warm_up_inferences": 4,
        "warm_up_ms": 210.0,
        "iterations": 15,
        "rounds": 5,
        "duration_s": 1.5,
        "wall_s": 4.0,
        "stable": True,
        "latency_ms": summarise([100.0]),
        "percentiles_ms": {"90": 100.0},
        "parts_ms": dict.fromkeys(get_args(Part), summarise([5.0])),
        "throughput_qps": 10.0,
        "unswapped_ms": summarise([95.0]),
        "ratio_to_unswapped": 1.05,
        "bound_ms": 95.0,
        "ratio_to_bound": 1.05,
        "floor_ms": 95.0,
        "ratio_to_floor": 1.05,
        "contended_bound_ms": 98.0,
        "ratio_to_contended_bound": 1.02,
        "idle_ms": 96.0,
        "idle_cv_percent": 1.0,
        "execution_ms": 95.0,
        "reading_ms": 50.0,
        "predicted_ms": 104.0,
        "paired_predicted_ms": 102.0,
        "prediction_error": -0.02,
        "overlap_fraction": 0.9,
        "stall_ms": 5.0,
        "stall_fraction": 0.05,
        "max_abs_error": 1e-6,
        "max_rel_error": 1e-6,
        "verdict": "compute-bound",
        "advice": Advice(0.04, 48 * MIB, {"fp16": 10 * MIB, "int8": 0}),
        "peers": {"mapped": a_peer()},
        "command": "swapnet bench toy",
        "machine": Machine(
            processor="A processor",
            processors=2,
            memory_bytes=8 << 30,
            kernel="6.1",
            python="3.11",
            swapnet="0.1.0",
            backend="onnxruntime 1.32",
            load_mode="direct",
            threads=2,
        ),
    }
    return Report(**{**usual, **fields})


def an_opening(**fields: Any) -> Opening:
    """An engine that was opened cold."""
    usual: dict[str, Any] = {
        "open_ms": 120.0,
        "sessions_ms": 80.0,
        "read_ms": 30.0,
        "read_bytes": 32 * MIB,
        "plan_ms": 5.0,
        "packing_bytes": 0,
        "transient_bytes": 0,
        "first_ms": 140.0,
        "cache": "cold",
    }
    return Opening(**{**usual, **fields})


def a_round(
    latency_ms: Sequence[float],
    *,
    idle_ms: Sequence[float] = (),
    storage_bytes_per_s: float = 0.0,
    idle_ms_before: float = 0.0,
    **fields: Any,
) -> Round:
    """A round of these latencies; ``fields`` are those of each of its inferences."""
    timings = tuple(Timing(ms, idle_ms=idle_ms_before, **fields) for ms in latency_ms)
    return Round(timings, tuple(idle_ms), storage_bytes_per_s)


def some_findings(engine: Engine, budget: Budget, count: int = 3) -> Findings:
    """Findings of a simulated engine: steps of 2 ms, half of it waits, and the output 1.5."""
    manifest, profile = engine.manifest, engine.delays
    plan = make_plan(manifest, profile, admitted_bytes(budget, manifest))
    steps = len(plan.steps)
    timing = Timing(
        2.0 * steps,
        compute_ms=2.0 * steps,
        steps_ms=(1.0,) * steps,
        waits_ms=(1.0,) * steps,
    )
    outputs: dict[str, Array] = {"y": np.array([1.5])}
    rounds = (Round((timing,) * count),)
    return Findings(a_report(), plan, manifest, profile, rounds, outputs, ())


@pytest.fixture
def simulated(tmp_path: Path) -> Callable[..., tuple[Path, Manifest]]:
    """Writes a simulated engine of blocks with so many bytes."""

    def make(weights_bytes: Sequence[int]) -> tuple[Path, Manifest]:
        return tmp_path / "engine", write_engine(tmp_path / "engine", weights_bytes)

    return make
