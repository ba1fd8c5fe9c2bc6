"""The profile of one engine on this device."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

from swapnet.budget import Budget
from swapnet.calibration.storage import BackgroundReader
from swapnet.executor.device import Device
from swapnet.executor.executor import SwapExecutor
from swapnet.executor.inputs import planned_sample
from swapnet.executor.machine import memory_bytes
from swapnet.executor.memory import demand
from swapnet.executor.plan import PlanOptions
from swapnet.executor.storage import LoadMode, WeightFile
from swapnet.manifest import WEIGHTS, Extent, load_manifest
from swapnet.profile import Profile, save_profile

__all__ = ["calibrate"]

_ROUNDS = 7
_SAMPLE_BYTES = 256 << 20
"""Read at most so much for the bandwidth."""


def calibrate(
    folder: str | Path,
    *,
    device: Device | None = None,
    load_mode: LoadMode | str = LoadMode.AUTO,
) -> Profile:
    """Measure block times and storage, and write ``profile.json``.

    Each figure is the median of rounds in which all are measured in turn, after a warm-up. The
    model is held in memory where it fits, else it is swapped while it is measured.

    Parameters
    ----------
    folder
        Engine directory.
    device
        Compute threads to measure.
    load_mode
        How weights are read.

    Raises
    ------
    SwapnetError
        The engine does not open or does not run.
    """
    folder = Path(folder)
    device = device or Device()
    manifest = load_manifest(folder)
    whole = demand(manifest).total_bytes
    budget = Budget(min(whole, memory_bytes() * 3 // 4))
    inputs = planned_sample(manifest)
    storage = WeightFile(folder / WEIGHTS, LoadMode(load_mode))
    sample: list[Extent] = []
    for block in manifest.blocks:
        if block.is_graph and sum(e.nbytes for e in sample) < _SAMPLE_BYTES:
            sample.append(block.extent)
    reader = BackgroundReader(storage, sample)
    apart_options = PlanOptions(merge=False)
    idle: list[list[float]] = []
    merged_ms: list[float] = []
    busy_ms: list[float] = []
    idle_rate: list[float] = []
    busy_rate: list[float] = []
    with (
        SwapExecutor(folder, budget, device=device, load_mode=load_mode) as merged,
        SwapExecutor(
            folder, budget, device=device, load_mode=load_mode, options=apart_options
        ) as apart,
    ):
        for executor in (merged, apart):
            executor(inputs)
        for _ in range(_ROUNDS):
            idle.append(_step_ms(apart, inputs))
            merged_ms.append(sum(_step_ms(merged, inputs)))
            idle_rate.append(_rate(reader, reader.once()))
            with reader.reading():
                start, before = time.perf_counter(), reader.read_bytes
                busy_ms.append(sum(_step_ms(merged, inputs)))
                elapsed = time.perf_counter() - start
            busy_rate.append(max(reader.read_bytes - before, 1) / elapsed)
    storage.close()
    blocks = [median(times) for times in zip(*idle, strict=True)]
    calls = max(len(blocks) - 1, 1)
    step_ms = min(max((sum(blocks) - median(merged_ms)) / calls, 0.0), min(blocks))
    profile = Profile(
        schema="swapnet-profile/1",
        device=device.fingerprint,
        block_ms=tuple(ms - step_ms for ms in blocks),
        step_ms=step_ms,
        storage_bytes_per_s=median(idle_rate),
        busy_storage_bytes_per_s=median(busy_rate),
        busy_slowdown=max(1.0, median(b / i for b, i in zip(busy_ms, merged_ms, strict=True))),
    )
    save_profile(folder, profile)
    return profile


def _step_ms(executor: SwapExecutor, inputs: Mapping[str, Any]) -> list[float]:
    executor(inputs)
    last = executor.stats.last
    assert last is not None
    return [(event.end - event.start) * 1e3 for event in last.steps]


def _rate(reader: BackgroundReader, seconds: float) -> float:
    return reader.total_bytes / seconds
