"""The process that measures: a `Job` in, a profile out.

It is a process of its own, so that its compute threads are one pool, as in the workers of the
benchmark and on the command line.
"""

from __future__ import annotations

import sys
from contextlib import closing
from dataclasses import replace

import msgspec

from swapnet.budget import Budget
from swapnet.calibration.delays.blocks import (
    APART,
    MERGED,
    Sides,
    alone,
    block_times,
    intervals,
    measure_rounds,
    storage_of,
)
from swapnet.calibration.delays.requests import (
    LEAST_BYTES,
    PAIRS,
    RequestMeter,
    choose,
    measure_requests,
)
from swapnet.executor.engine import Engine
from swapnet.executor.executor import SwapExecutor
from swapnet.executor.gpu import cuda
from swapnet.executor.inputs import planned_sample
from swapnet.executor.planning.planner import smallest_budget
from swapnet.executor.probing.reader import BackgroundReader
from swapnet.executor.probing.twin import Twin
from swapnet.executor.samples import sample_of
from swapnet.executor.state import Cache
from swapnet.executor.swapping.storage import LoadMode, WeightFile
from swapnet.machine import memory_to_measure_in_bytes
from swapnet.manifest import EXTENT_ALIGNMENT, WEIGHTS, Extent, Manifest
from swapnet.process.serve import answering, serve
from swapnet.profile import BlockTime, Need, Profile, Request, assumed_profile
from swapnet.progress import Progress
from swapnet.tensors import Array

__all__ = ["Job", "measure_profile"]

_SHARE = 3
"""Share of a GPU's memory: the model is held twice."""

_LEAST_SHARE = 0.25
"""Share of the weights in memory, of a model that does not fit on a GPU."""

_LONE_BYTES = 512 << 10
"""Size of the request whose delay after a pause is measured."""

_SAMPLE_BYTES = 48 << 20
"""Bytes that are read for the bandwidth beside one round of blocks."""


class Job(msgspec.Struct, frozen=True):
    """Engine and settings to measure.

    Empty ``shapes`` are those of the build; empty ``requests`` are measured.
    """

    folder: str
    threads: int
    load_mode: str
    shapes: dict[str, tuple[int, ...]]
    requests: tuple[Request, ...]
    gpu_memory: str = "auto"
    cache: Cache | None = None


def measure_profile(engine: Engine, job: Job, progress: Progress) -> Profile:
    """Measure in this process, on the engine's device.

    The model is held in memory if it fits, else it is swapped while it is measured.

    Raises
    ------
    SwapnetError
        The engine does not open or run.
    """
    manifest, device = engine.manifest, engine.device
    budget = _budget(engine)
    cache = engine.cache
    inputs = token_inputs(manifest, cache) if cache else sample_of(engine)
    mode = LoadMode.parse(job.load_mode)

    nbytes = manifest.weights_nbytes // EXTENT_ALIGNMENT * EXTENT_ALIGNMENT
    progress("open", 0, 1)
    with (
        closing(WeightFile(engine.folder / WEIGHTS, mode)) as storage,
        SwapExecutor(engine, budget, load_mode=mode, options=MERGED) as merged,
        Twin(engine, budget, other=merged, load_mode=mode, options=APART) as apart,
    ):
        for executor in (merged, apart) if cache else ():
            executor.state().hold()
        meter = RequestMeter(storage, nbytes, max(size * readers for size, readers in PAIRS))
        requests = job.requests
        if not requests and nbytes >= LEAST_BYTES:
            alone_ms = alone(apart, inputs)
            requests = measure_requests(meter, lambda: intervals(apart, inputs, alone_ms), progress)
        pair = choose(requests)
        reader = BackgroundReader(storage, _sample(manifest), read_bytes=pair[0], readers=pair[1])
        sides = Sides(merged, apart, reader, meter, min(_LONE_BYTES, nbytes), inputs)
        rounds = measure_rounds(sides, progress)
        needs = needs_of(merged.manifest)
        blocks, step_ms = block_times(rounds, sides.calls)
        chunk: tuple[BlockTime, ...] = ()
        if cache:
            of_chunk = cache.asked(cache.at(manifest, 1, cache.chunk))
            sides = replace(sides, inputs=planned_sample(of_chunk))
            chunk, _ = block_times(measure_rounds(sides, progress), sides.calls)
    profile = msgspec.structs.replace(
        assumed_profile(manifest),
        device=device.fingerprint,
        blocks=blocks,
        step_ms=step_ms,
        needs=needs,
        chunk=chunk,
    )
    if any(turn.bytes_per_s for turn in rounds):
        found = storage_of(rounds, pair)
        profile = msgspec.structs.replace(
            profile, storage=msgspec.structs.replace(found, requests=requests)
        )
    return profile


def token_inputs(manifest: Manifest, cache: Cache) -> dict[str, Array]:
    """Seeded inputs of the last token that fits into each cache."""
    return planned_sample(cache.asked(cache.at(manifest, cache.conversations, 1)))


def _budget(engine: Engine) -> Budget:
    """Everything in memory if it fits; on a GPU a share, for the needs of blocks are not known."""
    manifest, needed = engine.manifest, engine.demand
    if manifest.runs_on_gpu:
        most = cuda.open_cuda(engine.device.gpu_index).free_bytes() // _SHARE - needed.other_bytes
        share = max(_LEAST_SHARE, min(1.0, most / max(needed.weights_bytes, 1)))
        return Budget.parse(f"weights:{share:.0%}")
    smallest, _ = smallest_budget(manifest)
    share_bytes = memory_to_measure_in_bytes()
    # Two executors: what they hold once may take the shares of both.
    held_once = needed.total_bytes <= share_bytes * (1 if manifest.has_windows else 2)
    return Budget(max(smallest, needed.total_bytes if held_once else share_bytes))


def needs_of(manifest: Manifest) -> tuple[Need, ...]:
    """Needs of the blocks on a GPU; elsewhere they are known since the build."""
    if not manifest.runs_on_gpu:
        return ()
    return tuple(Need(b.skeleton_bytes, b.activation_bytes) for b in manifest.blocks)


def _sample(manifest: Manifest) -> list[Extent]:
    """The first extents, enough to measure storage with."""
    extents: list[Extent] = []
    for block in manifest.blocks:
        if block.extent.nbytes and sum(e.nbytes for e in extents) < _SAMPLE_BYTES:
            extents.append(block.extent)
    return extents


def _measure(job: Job, progress: Progress) -> Profile:
    engine = Engine.open(job.folder).on_threads(job.threads, own=True, gpu_memory=job.gpu_memory)
    if job.shapes:
        engine = engine.at(job.shapes, cache=job.cache)
    if job.cache:
        engine = engine.keeping(job.cache)
    return measure_profile(engine, job, progress)


work = answering(Job, _measure)
"""Measures what the parent asks for."""


if __name__ == "__main__":
    sys.exit(serve(work))
