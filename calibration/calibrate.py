"""The profile of one engine on this device."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
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
from swapnet.executor.plan import PlanOptions, smallest_budget
from swapnet.executor.storage import LoadMode, WeightFile
from swapnet.manifest import WEIGHTS, Extent, Manifest, load_manifest
from swapnet.profile import Profile, save_profile

__all__ = ["calibrate"]

_FEWEST_ROUNDS, _MOST_ROUNDS = 3, 7
_ENOUGH_S = 4.0
"""After so long the fewest rounds are enough."""

_SHARE = 3
"""Of the machine's memory, for the model is held twice."""

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
    smallest, _ = smallest_budget(manifest)
    budget = Budget(max(smallest, min(whole, memory_bytes() // _SHARE)))
    inputs = planned_sample(manifest)

    def opened(options: PlanOptions) -> SwapExecutor:
        return SwapExecutor(folder, budget, device=device, load_mode=load_mode, options=options)

    rounds: list[_Round] = []
    with (
        closing(WeightFile(folder / WEIGHTS, LoadMode.parse(load_mode))) as storage,
        opened(PlanOptions()) as merged,
        opened(PlanOptions(merge=False)) as apart,
    ):
        reader = BackgroundReader(storage, _sample(manifest))
        for executor in (merged, apart):
            executor(inputs)
        started = time.perf_counter()
        while len(rounds) < _FEWEST_ROUNDS or (
            len(rounds) < _MOST_ROUNDS and time.perf_counter() - started < _ENOUGH_S
        ):
            rounds.append(_measure(merged, apart, reader, inputs))
    profile = _profile(device, rounds)
    save_profile(folder, profile)
    return profile


@dataclass(frozen=True)
class _Round:
    """All figures once, measured in turn."""

    block_ms: tuple[float, ...]
    """With a call for each block."""
    merged_ms: float
    busy_ms: float
    """As ``merged_ms``, while the reader reads."""
    idle_bytes_per_s: float
    busy_bytes_per_s: float


def _measure(
    merged: SwapExecutor, apart: SwapExecutor, reader: BackgroundReader, inputs: Mapping[str, Any]
) -> _Round:
    block_ms = tuple(_step_ms(apart, inputs))
    merged_ms = sum(_step_ms(merged, inputs))
    idle = max(reader.total_bytes, 1) / reader.once()
    with reader.reading():
        start, before = time.perf_counter(), reader.read_bytes
        busy_ms = sum(_step_ms(merged, inputs))
        elapsed, read = time.perf_counter() - start, reader.read_bytes - before
    return _Round(block_ms, merged_ms, busy_ms, idle, max(read, 1) / elapsed)


def _profile(device: Device, rounds: Sequence[_Round]) -> Profile:
    block_ms = [median(times) for times in zip(*(r.block_ms for r in rounds), strict=True)]
    calls = max(len(block_ms) - 1, 1)
    merged_ms = median(r.merged_ms for r in rounds)
    step_ms = min(max((sum(block_ms) - merged_ms) / calls, 0.0), min(block_ms))
    return Profile(
        schema="swapnet-profile/1",
        device=device.fingerprint,
        block_ms=tuple(ms - step_ms for ms in block_ms),
        step_ms=step_ms,
        storage_bytes_per_s=median(r.idle_bytes_per_s for r in rounds),
        busy_storage_bytes_per_s=median(r.busy_bytes_per_s for r in rounds),
        busy_slowdown=max(1.0, median(r.busy_ms / r.merged_ms for r in rounds)),
    )


def _sample(manifest: Manifest) -> list[Extent]:
    """The first extents, as many as say enough of storage."""
    extents: list[Extent] = []
    for block in manifest.blocks:
        if block.extent.nbytes and sum(e.nbytes for e in extents) < _SAMPLE_BYTES:
            extents.append(block.extent)
    return extents or [Extent(0, manifest.weights_nbytes)]


def _step_ms(executor: SwapExecutor, inputs: Mapping[str, Any]) -> list[float]:
    executor(inputs)
    last = executor.stats.last
    assert last is not None
    return [(event.end - event.start) * 1e3 for event in last.steps]
