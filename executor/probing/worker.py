"""The process that measures blocks: it runs them one by one and merged, on seeded or kept inputs.

Its parent is `swapnet.executor.probing.activations`.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path

import msgspec

from swapnet.errors import BudgetError
from swapnet.executor.backends.onnxruntime import LARGEST_CHUNK_BYTES
from swapnet.executor.planning.layout import lifetimes
from swapnet.executor.planning.plan import Step
from swapnet.executor.planning.schedule import outline_of
from swapnet.executor.planning.usage import least_bytes
from swapnet.executor.probing import trial
from swapnet.executor.probing.activations import Job, Measurement
from swapnet.executor.probing.blocks import ONE_OPERATOR, UNSEEN_BYTES, Blocks, Region
from swapnet.executor.probing.stripings import (
    few_strips,
    find_stripings,
    steps_with,
    strip_steps,
    ways_to_try,
    with_stripings,
)
from swapnet.manifest import Manifest
from swapnet.process.child import Child, forked
from swapnet.process.serve import answering, serve
from swapnet.progress import Progress
from swapnet.shapes import SessionMemory
from swapnet.strips import Striped, Striping
from swapnet.units import align_up

__all__ = ["work"]

_MARGIN = 1.05
"""Growth of the limit after each failed try, for fragments of ONNX Runtime's arena."""

_FEW_BLOCKS = 3
"""Blocks in a step, beside one and all: values of unknown size leave other holes then."""

_MOST_TIMES_PEAK = 16
"""Upper limit of the tries, in multiples of the peak."""

_CONFIRMING_TRIES = 2

_OWN = (False, True)
"""Processes in which the smallest budget is tried: a user's, and one of ours."""

_PATIENCE_S = 30.0
_PATIENT_TIMES = 10
"""Time-out of the smallest plan under the kernel's limit: seconds, and multiples of the time
without a limit. A process that crawls takes far longer."""

_SPARE_BYTES = 256 << 10
"""Added to the limits: kernels need a little more at other shapes, or with more threads."""

_WATCHED_BYTES = 192 << 20
_SEEN_BYTES = 48 << 20
"""Watched memory of the first try, and the peak below which it counts: what lies beyond the watched
memory would begin above it. ONNX Runtime fills a list of a 32nd of an arena, so a large one takes
longer than most models run."""

_PR_SET_THP_DISABLE = 41


def _measure_here(job: Job, _: Progress) -> Measurement:
    import onnxruntime  # noqa: F401 - before the forks, so that it does not count

    folder, cache = Path(job.folder), job.cache
    tries = _CONFIRMING_TRIES if job.limited else 0
    # Forked early, so that their heaps are as those of new processes.
    with ExitStack() as opened, forked(*[trial.MODULE] * (len(_OWN) + tries)):
        # Huge pages would make a peak of touched ones; the trials have them as executors do.
        ctypes.CDLL(None).prctl(_PR_SET_THP_DISABLE, 1, 0, 0, 0)
        blocks = Blocks(job)
        manifest = blocks.manifest
        apart = _grouped(manifest, 1)
        sizes = [len(manifest.blocks)]
        if not all(map(manifest.is_sized, manifest.values)):
            sizes.insert(0, _FEW_BLOCKS)
        groupings = [_grouped(manifest, size) for size in sizes]
        peaks = _peaks(blocks, apart, LARGEST_CHUNK_BYTES)
        limit = _limit(blocks, groupings, max(peaks))
        cut = ((n, rows.axis) for n, rows in manifest.rows.items() if n in blocks.shapes)
        heights = {name: blocks.shapes[name][axis] for name, axis in cut}
        measured = _measured(manifest.sized(blocks.nbytes), peaks, limit)
        ways = ways_to_try(measured, heights)
        blocks.keep(striped for way in ways for striped in way)
        limit = _limit(blocks, [apart], limit) + _SPARE_BYTES
        measured = _measured(measured, peaks, limit)
        stripings = _stripings(blocks, measured, heights, ways)
        measured = with_stripings(measured, stripings)
        measured = cache.counted(measured) if cache else measured
        begun_s = time.monotonic()
        trials = [
            opened.enter_context(Child(trial.MODULE, "the process that tries the smallest budget"))
            for _ in _OWN
        ]
        for process, own in zip(trials, _OWN, strict=True):
            process.tell(trial.Job(str(folder), measured, ONE_OPERATOR, own, cache=cache))
        process_bytes, own_process_bytes = (int(process.hear()) for process in trials)
        process_bytes = max(process_bytes, own_process_bytes)  # they differ by chance if small
        memory = SessionMemory(limit, process_bytes, own_process_bytes)
        memory, unconfirmed = trial.confirmed(
            tries,
            folder,
            msgspec.structs.replace(measured, session_memory=memory),
            ONE_OPERATOR,
            cache,
            patience_s=_PATIENCE_S + _PATIENT_TIMES * (time.monotonic() - begun_s),
        )
    return Measurement(tuple(peaks), memory, blocks.nbytes, stripings, unconfirmed)


def _stripings(
    blocks: Blocks,
    measured: Manifest,
    heights: Mapping[str, int],
    ways: Sequence[tuple[Striped, ...]],
) -> tuple[Striping, ...]:
    proven = measured.session_memory.scratch_bytes - _SPARE_BYTES
    alive = lifetimes(measured)
    unsized = [alive[value.name] for value in measured.values if not measured.is_sized(value)]
    most_bytes = least_bytes(measured, None)

    def limit_of(striped: Striped) -> int:
        peak = max(_peaks(blocks, strip_steps(striped, [0]), most_bytes))
        return _limit(blocks, [strip_steps(striped, few_strips(measured, heights, striped))], peak)

    def together(runs: tuple[Striped, ...], limit: int) -> int:
        beside = any(first <= r.last and r.first <= last for r in runs for first, last in unsized)
        if limit >= proven and not beside:  # each block has run under it, with all that lies beside
            return limit
        return _limit(blocks, [steps_with(measured, runs)], limit)

    return find_stripings(measured, ways, limit_of, together, _SPARE_BYTES)


def _measured(manifest: Manifest, peaks: Sequence[int], limit: int) -> Manifest:
    return msgspec.structs.replace(
        manifest,
        session_memory=SessionMemory(limit),
        blocks=tuple(
            msgspec.structs.replace(block, activation_bytes=peak)
            for block, peak in zip(manifest.blocks, peaks, strict=True)
        ),
    )


def _grouped(manifest: Manifest, size: int) -> list[Step]:
    """Steps of ``size`` blocks; a lookup has its own."""
    steps: list[Step] = []
    joinable = outline_of(manifest).joinable
    for block in manifest.blocks:
        before = steps[-1] if steps else None
        if before is not None and joinable[block.index] and block.index - before.first < size:
            steps[-1] = replace(before, last=block.index)
        else:
            steps.append(Step(block.index, block.index, 0))
    return steps


def _peaks(blocks: Blocks, steps: Sequence[Step], most_bytes: int) -> list[int]:
    """The peak of ONNX Runtime's arena after each step; BudgetError above ``most_bytes``."""
    largest = min(align_up(most_bytes, mmap.PAGESIZE) + UNSEEN_BYTES, LARGEST_CHUNK_BYTES)
    if largest > _WATCHED_BYTES + UNSEEN_BYTES:
        with suppress(BudgetError):
            peaks = blocks.run(steps, _WATCHED_BYTES + UNSEEN_BYTES, Region())
            if max(peaks) < _SEEN_BYTES:
                return peaks
    return blocks.run(steps, largest, Region())


def _limit(blocks: Blocks, orders: Sequence[Sequence[Step]], peak: int) -> int:
    """A limit of ONNX Runtime's arena under which the blocks run in every order, from ``peak`` on.

    The arena takes the smallest hole that fits, so its peak depends on its size: the limit may have
    to be above the peak of a large arena.
    """
    limit = align_up(peak, mmap.PAGESIZE)
    for steps in orders:
        while not _runs(blocks, steps, limit, peak):
            limit = align_up(int(max(limit, 1 << 16) * _MARGIN), mmap.PAGESIZE)
    return limit


def _runs(blocks: Blocks, steps: Sequence[Step], limit: int, peak: int) -> bool:
    try:
        blocks.run(steps, limit, None)
    except BudgetError:
        if limit > _MOST_TIMES_PEAK * max(peak, 1 << 20):
            raise
        return False
    return True


work = answering(Job, _measure_here)
"""Measures the engine that the parent asks for."""

if __name__ == "__main__":
    sys.exit(serve(work))
