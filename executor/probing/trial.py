"""Run an engine at its smallest budget in a process: measure all that no part explains.

Kernels allocate memory outside of ONNX Runtime's arena, the C library keeps some of what they free,
and skeletons hold constants that can't be swapped. None of that is known beforehand.
"""

from __future__ import annotations

import mmap
import os
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np

from swapnet.executor.backends.onnxruntime import open_on_cpu, own_process
from swapnet.executor.device import Device, ThreadPool, available_processors
from swapnet.executor.engine import Engine
from swapnet.executor.executor import SwapExecutor
from swapnet.executor.inputs import planned_sample
from swapnet.executor.planning.plan import Step
from swapnet.executor.planning.planner import smallest_budget
from swapnet.executor.planning.usage import for_pool
from swapnet.executor.samples import kept_samples
from swapnet.executor.state import Cache
from swapnet.fingerprint import PORTABLE
from swapnet.machine import (
    anonymous_bytes,
    forget_peak,
    map_files,
    own_pages,
    peak_anonymous_bytes,
    trim_heap,
)
from swapnet.manifest import Manifest
from swapnet.process.cgroup import MemoryGroup
from swapnet.process.child import Child
from swapnet.process.failure import ProcessDied, ProcessTimedOut
from swapnet.process.serve import Parent, serve
from swapnet.shapes import SessionMemory
from swapnet.tensors import Array
from swapnet.units import align_up, format_size

__all__ = ["MODULE", "Job", "confirmed", "process_bytes"]

MODULE = "swapnet.executor.probing.trial"

_OPENING_BYTES = 3 << 20
"""Memory that is free while sessions pack weights, for what they read of files: values have not
taken theirs then. With less a small model opened in 12 to 97 s under the kernel's limit."""

_RESERVE_BYTES = 3 << 20
"""Added to what is measured: kernel stacks, more readers than one, and pages of the library's code
that only this engine runs (2.0 to 2.8 MiB were read of three). Under the kernel's limit the pages
count, but can be read again. With 2 MiB processes read them again and again, and were killed at
last: PP-OCRv6's detector in half of its runs."""

_RESERVE_SHARE = 16
"""Part of what is measured that is added to it: kernels of several threads allocate at other
moments in each inference."""

_SMALL_BYTES = 16 << 20
_STEADY_BYTES = 256 << 10
"""A process that takes less than `_SMALL_BYTES` has no kernels that grow the heap; another has
stopped growing where `_STEADY_INFERENCES` in turn add less than `_STEADY_BYTES`."""

_STEADY_INFERENCES = 3

_MOST_INFERENCES = 8
"""The heap of eight int4 products grew for five inferences, of other models for two."""


class Job(msgspec.Struct, frozen=True):
    """Arguments of `process_bytes`; with ``processes``, file of a group to join, only run there."""

    folder: str
    manifest: Manifest
    warm_up: bytes
    own: bool = True
    processes: str = ""
    cache: Cache | None = None


def process_bytes(
    folder: Path, manifest: Manifest, warm_up: bytes, cache: Cache | None = None, *, own: bool
) -> int:
    """Growth of this process beyond the parts of the smallest plan, and a reserve.

    Parameters
    ----------
    folder, manifest
        The engine, and all that is known of it already.
    warm_up
        A model of one operator, as ONNX, with an input ``x`` of float32 values: what it takes is
        the fixed cost of a process.
    cache
        What the executor keeps between inferences.
    own
        True in a process of ours.

    Raises
    ------
    SwapnetError
        The engine does not run.
    """
    memory = SessionMemory(manifest.session_memory.scratch_bytes)
    manifest = msgspec.structs.replace(manifest, session_memory=memory)
    device = _warmed_up(warm_up, own=own)
    map_files()  # code that is first run after the peak would hide as much of it
    before = anonymous_bytes()
    forget_peak()
    engine = _opened(folder, manifest, device, cache)  # what a manifest takes counts
    needed, _ = smallest_budget(manifest)
    with SwapExecutor(engine, needed) as executor:
        if manifest.has_windows:
            # Packed once while sessions were made, in memory that the arena had not yet taken.
            forget_peak()
        plan = executor.plan
        known = before + plan.planned_bytes - plan.usage.process_bytes
        samples = _samples(executor, engine)
        found = steady = 0
        for _ in range(_MOST_INFERENCES):
            for inputs in samples:
                executor(inputs)
            last, found = found, max(found, peak_anonymous_bytes() - known)
            steady = steady + 1 if found - last < _STEADY_BYTES else 0
            if found < _SMALL_BYTES or steady == _STEADY_INFERENCES:
                break
            forget_peak()
        skeletons = sum(block.skeleton_bytes for block in manifest.blocks)
        opening = _OPENING_BYTES - plan.usage.activation_bytes - plan.usage.io_bytes
        reserve = _RESERVE_BYTES + (max(opening, 0) if manifest.has_windows else 0)
        return max(found - skeletons, 0) + reserve + found // _RESERVE_SHARE


def confirmed(
    tries: int,
    folder: Path,
    manifest: Manifest,
    warm_up: bytes,
    cache: Cache | None = None,
    *,
    patience_s: float,
) -> tuple[SessionMemory, str]:
    """Run the smallest plan under its own number; what sessions take, and why it did not run.

    Each process runs in a memory group of the kernel that allows the smallest budget and no more;
    what it had before is not counted. Where the kernel ends it for its memory, the number grows.
    Where it is only slow, the number stays: the machine may be busy.

    Parameters
    ----------
    tries
        Most processes to start; with 0 the number stays.
    folder, manifest, warm_up, cache
        As for `process_bytes`, with the memory of sessions as measured.
    patience_s
        Time-out of each try: under a limit that is far too small a process may crawl.

    Returns
    -------
    tuple
        The memory, and a sentence of what is not confirmed; empty where the plan ran.

    Raises
    ------
    SwapnetError
        The engine does not run, or the process died of another cause than its memory.
    """
    for _ in range(tries):
        budget_bytes, _ = smallest_budget(for_pool(manifest, ThreadPool.GLOBAL))
        with (
            MemoryGroup(align_up(budget_bytes, mmap.PAGESIZE)) as group,
            Child(
                MODULE, "the process that runs at the smallest budget", patience_s=patience_s
            ) as process,
        ):
            joined = str(group.processes_file)
            process.tell(Job(str(folder), manifest, warm_up, processes=joined, cache=cache))
            try:
                process.hear()
            except ProcessTimedOut:
                limit, peak = format_size(budget_bytes), format_size(group.peak_bytes)
                return manifest.session_memory, (
                    f"it took longer than {patience_s:.0f} s, but the kernel ended nothing "
                    f"({peak} of {limit} in use at most); the number stays as it was measured"
                )
            except ProcessDied:
                if not group.has_killed:
                    raise
                manifest = _with_more(manifest, _RESERVE_BYTES + budget_bytes // _RESERVE_SHARE)
            else:
                return manifest.session_memory, ""
    untried = "the kernel ended it; the number was raised, which was not tried"
    return manifest.session_memory, untried if tries else ""


def _with_more(manifest: Manifest, nbytes: int) -> Manifest:
    memory = manifest.session_memory
    more = msgspec.structs.replace(
        memory,
        process_bytes=memory.process_bytes + nbytes,
        own_process_bytes=memory.own_process_bytes + nbytes,
    )
    return msgspec.structs.replace(manifest, session_memory=more)


def _run_in_group(
    folder: Path, manifest: Manifest, warm_up: bytes, cache: Cache | None, processes: Path
) -> None:
    own_pages()
    device = _warmed_up(warm_up, own=True)
    with suppress(OSError):  # a group of version 2 may not be the user's to join
        processes.write_text(str(os.getpid()))
    engine = _opened(folder, manifest, device, cache)
    with SwapExecutor(engine, smallest_budget(engine.manifest)[0]) as executor:
        grows = engine.manifest.session_memory.own_process_bytes >= _SMALL_BYTES
        for inputs in _samples(executor, engine):
            for _ in range(_STEADY_INFERENCES if grows else 1):
                executor(inputs)


def _samples(executor: SwapExecutor, engine: Engine) -> tuple[dict[str, Array], ...]:
    """Inputs to measure with; a cache is then as full as it can be, in each inference."""
    if engine.cache is None:
        return kept_samples(engine) or (planned_sample(engine.manifest),)
    executor.state().hold()
    asked = map(engine.cache.asked, engine.cache.largest(engine.manifest))
    return tuple(planned_sample(each) for each in asked)


def _warmed_up(warm_up: bytes, *, own: bool) -> Device:
    """The device, after this process has run another model: a process's fixed cost is paid."""
    device = own_process(available_processors()) if own else Device()
    first = open_on_cpu(warm_up, Step(0, 0, 0), device, shared_arena=False)
    first.run(None, {"x": np.zeros(1, np.float32)})
    trim_heap()  # what was freed before would hide what is allocated now
    return device


def _opened(folder: Path, manifest: Manifest, device: Device, cache: Cache | None) -> Engine:
    compiled = msgspec.structs.replace(
        manifest.compiled, backend="onnxruntime", fingerprint=PORTABLE
    )
    shaped = msgspec.structs.replace(manifest, compiled=compiled, inline={})
    opened = Engine.open(folder, device=device)
    built = msgspec.structs.replace(opened.built, runs=manifest.runs)  # as it will be written
    return replace(opened, built=built, shaped=shaped, cache=cache)


def work(parent: Parent) -> None:
    """Do what the parent asks for."""
    job = parent.job(Job)
    folder = Path(job.folder)
    if job.processes:
        _run_in_group(folder, job.manifest, job.warm_up, job.cache, Path(job.processes))
        parent.answer(0)
    else:
        parent.answer(process_bytes(folder, job.manifest, job.warm_up, job.cache, own=job.own))


if __name__ == "__main__":
    sys.exit(serve(work))
