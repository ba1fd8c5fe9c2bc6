"""Time the opening of an engine, over and over: trtexec's ``--timeDeserialize``."""

from __future__ import annotations

from statistics import mean
from typing import Literal

import msgspec

from swapnet.budget import Budget
from swapnet.executor.bench.sides import Request
from swapnet.executor.bench.worker import Worker
from swapnet.executor.engine import Engine
from swapnet.executor.planning.admission import admitted_bytes
from swapnet.executor.swapping.storage import LoadMode
from swapnet.units import format_size

__all__ = ["OpenTimes", "time_opening"]

_REPEATED = 20
_LARGEST_RATIO = 2.0
"""Ratio of the first to the mean above which trtexec calls the measurement unstable."""


class OpenTimes(msgspec.Struct, frozen=True, kw_only=True):
    """Times of opening one engine; keys and units of the schema ``swapnet-open/1``.

    Attributes
    ----------
    first_ms, mean_ms, repeated
        The first opening in a process, and the mean of the others.
    plan_ms
        Part of ``mean_ms``: the search of the plan.
    read_bytes
        Bytes that one opening reads: files of blocks, and resident weights.
    bytes_per_s
        These bytes over the rest of ``mean_ms``.
    is_steady
        Whether the first took at most twice the mean.
    """

    schema: Literal["swapnet-open/1"] = "swapnet-open/1"
    model: str
    budget: str
    first_ms: float
    mean_ms: float
    plan_ms: float
    repeated: int
    read_bytes: int
    bytes_per_s: float
    is_steady: bool

    def as_text(self) -> str:
        """The same for a terminal."""
        line = (
            f"Open: first {self.first_ms:.2f} ms, mean of {self.repeated} more {self.mean_ms:.2f} "
            f"ms, {self.plan_ms:.2f} ms of it for the plan; {format_size(self.read_bytes)} read in "
            f"the rest, {self.bytes_per_s / 1e9:.3f} GB/s"
        )
        if self.is_steady:
            return line
        return f"{line}\nFailed: the first took more than {_LARGEST_RATIO:g} times the mean"


def time_opening(
    engine: Engine, budget: Budget, *, load_mode: LoadMode = LoadMode.AUTO
) -> OpenTimes:
    """Open and close an engine in a process of its own, once and then twenty times.

    Raises
    ------
    BudgetError
        The budget is too small.
    SwapnetError
        The engine does not open.
    """
    engine = engine.in_child().with_needs()
    nbytes = admitted_bytes(budget, engine.manifest, profile=engine.delays)
    request = Request.to(engine, "opening", budget_bytes=nbytes, load_mode=load_mode.value)
    with Worker(request) as worker:
        first_ms, *others = worker.run(1 + _REPEATED).latency_ms
        details = worker.details()
    graphs = (block for block in engine.manifest.blocks if block.is_graph)
    read_bytes = int(details["read_bytes"]) + sum(
        (engine.folder / block.file).stat().st_size for block in graphs
    )
    mean_ms, plan_ms = mean(others), mean(details["plans_ms"][1:])
    return OpenTimes(
        model=engine.manifest.source.name,
        budget=str(budget),
        first_ms=first_ms,
        mean_ms=mean_ms,
        plan_ms=plan_ms,
        repeated=len(others),
        read_bytes=read_bytes,
        bytes_per_s=read_bytes / (mean_ms - plan_ms) * 1e3,
        is_steady=first_ms <= _LARGEST_RATIO * mean_ms,
    )
