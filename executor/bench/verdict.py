"""The verdict on one engine at one budget: what its latency is made of, and what would help."""

from __future__ import annotations

from typing import Literal

import msgspec

from swapnet.executor.planning.auto import LARGEST_STALL, auto_bytes, predicted_stall
from swapnet.executor.planning.plan import Plan
from swapnet.executor.planning.usage import demand
from swapnet.manifest import Manifest
from swapnet.profile import Profile

__all__ = ["Advice", "Verdict", "advise", "verdict_of"]

Verdict = Literal["not swapped", "storage-bound", "compute-bound", "latency-bound"]

_LOWER_PRECISIONS = {"fp32": {"fp16": 0.5, "int8": 0.25}, "fp16": {"int8": 0.5}}
"""Size of the same weights in lower precision, by the precision of an engine."""


def verdict_of(
    *,
    streamed_bytes: int,
    reading_ms: float,
    execution_ms: float,
    stall_ms: float,
    latency_ms: float,
) -> Verdict:
    """The class that these figures stand for.

    Parameters
    ----------
    streamed_bytes
        Bytes that the plan reads in each inference.
    reading_ms, execution_ms
        Time to read them, and latency of the unswapped model.
    stall_ms, latency_ms
        Medians of the wait for bytes and of the latency that it is part of.

    Returns
    -------
    str
        ``"not swapped"``: nothing is streamed. ``"storage-bound"``: reading takes as long as
        execution or longer. ``"compute-bound"``: waits are at most `LARGEST_STALL` of the latency.
        ``"latency-bound"``: reading is shorter than execution, and still they wait.
    """
    if not streamed_bytes:
        return "not swapped"
    if reading_ms >= execution_ms:
        return "storage-bound"
    return "compute-bound" if stall_ms <= LARGEST_STALL * latency_ms else "latency-bound"


class Advice(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Predictions of the planner with the delays of the benchmark.

    Attributes
    ----------
    predicted_stall
        Share of the latency that waits for storage, at the budget of the benchmark.
    budget_bytes
        Smallest budget found whose plan waits at most `LARGEST_STALL` of its latency; None where
        only the whole model in memory does.
    streamed_bytes
        Estimate of bytes read per inference in lower precision, by its name: as many bytes as here
        are never streamed.
    """

    predicted_stall: float
    budget_bytes: int | None
    streamed_bytes: dict[str, int]


def advise(manifest: Manifest, profile: Profile, delays: Profile, plan: Plan) -> Advice:
    """Search the smallest budget at which waits do not matter, above a plan in which they do.

    Parameters
    ----------
    manifest, profile
        The engine, and the delays that plans are made with.
    delays
        Delays of the benchmark, for prediction.
    plan
        The plan that was measured.
    """
    stall = predicted_stall(plan, delays)
    # Waits need not shrink with each byte: a plan that waits is helped by larger budgets only.
    above = plan.budget_bytes if stall > LARGEST_STALL else 0
    found = auto_bytes(manifest, profile, delays=delays, above_bytes=above)
    weights_bytes = demand(manifest).weights_bytes
    kept_bytes = weights_bytes - sum(read.nbytes for read in plan.reads)
    return Advice(
        predicted_stall=stall,
        budget_bytes=found if found < demand(manifest).total_bytes else None,
        streamed_bytes={
            name: max(round(weights_bytes * share) - kept_bytes, 0)
            for name, share in _LOWER_PRECISIONS.get(manifest.precision, {}).items()
        },
    )
