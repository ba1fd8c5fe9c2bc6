"""Measure the fixed cost of a process: its libraries and a trivial model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from itertools import islice
from pathlib import Path

import numpy as np

from swapnet.arrays import save_npz
from swapnet.executor.bench.sides import Request
from swapnet.executor.bench.worker import Program, Worker
from swapnet.executor.device import Device
from swapnet.executor.engine import Engine
from swapnet.process.cgroup import MemoryGroup, drop_page_cache

__all__ = ["FixedCost", "executor_cost", "settled_peak"]

_INFERENCES = 20
_TRIES = 3
_CACHED_BYTES = 1 << 20
"""Page cache of a count that is repeated; without a library it was 4 to 32 KiB."""


class FixedCost:
    """A process that has imported its libraries and runs a trivial model.

    Parameters
    ----------
    request
        The trivial model.
    program
        Program that runs it; None for ours.
    drop_cache
        Drop the page cache before each warm-up (needs root).
    """

    def __init__(
        self, request: Request, *, program: Program | None = None, drop_cache: bool = False
    ) -> None:
        self._request = request
        self._program = program
        self._drop_cache = drop_cache

    def warm_up(self) -> None:
        """Put libraries into the page cache, so that no group is charged for them."""
        if self._drop_cache:
            drop_page_cache()
        with Worker(self._request, program=self._program) as worker:
            worker.run(1)

    def measure(self, *, counted: bool) -> int:
        """Peak of the process after a warm-up, in bytes; by the kernel's count if ``counted``."""
        return settled_peak(self._counts(counted=counted))

    def _counts(self, *, counted: bool) -> Iterator[tuple[int, int]]:
        while True:
            self.warm_up()
            with ExitStack() as stack:
                group = stack.enter_context(MemoryGroup(None)) if counted else None
                worker = stack.enter_context(Worker(self._request, group, program=self._program))
                worker.run(_INFERENCES)
                peak = group.peak_bytes if group else int(worker.details()["resident_peak_bytes"])
                cached_bytes = group.cached_bytes if group else 0
                worker.close()
            yield peak, cached_bytes


def settled_peak(counts: Iterable[tuple[int, int]]) -> int:
    """The least of a few counts of a process's peak memory, in bytes.

    A count with libraries in it, because something else dropped the page cache, is repeated.

    Parameters
    ----------
    counts
        Each a peak, and the page cache in it; made when they are asked for.
    """
    peaks: list[int] = []
    for peak, cached_bytes in islice(counts, _TRIES):
        peaks.append(peak)
        if cached_bytes < _CACHED_BYTES:
            break
    return min(peaks)


def executor_cost(
    engine: Path, folder: Path, device: Device, *, drop_cache: bool = False
) -> FixedCost:
    """The cost of a process that runs an engine of one operator; its input goes to ``folder``."""
    opened = Engine.open(engine).in_child()
    inputs, shapes = folder / "runtime.npz", opened.manifest.planned_shapes
    save_npz(inputs, {name: np.zeros(shape, np.float32) for name, shape in shapes.items()})
    request = Request(
        role="swapped",
        path=str(engine),
        inputs=str(inputs),
        threads=device.threads,
        budget_bytes=opened.demand.total_bytes,
    )
    return FixedCost(request, drop_cache=drop_cache)
