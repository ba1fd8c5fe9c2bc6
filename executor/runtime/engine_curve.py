"""An engine with its latency over memory, as the split of a budget sees it.

An engine has two curves, for its two limits of scratch memory: steps of one block each, and steps
of several. Which of them counts depends on the other engines, which share that memory.
"""

from __future__ import annotations

import hashlib
import logging
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal

import msgspec

from swapnet.errors import SwapnetError
from swapnet.executor.engine import Engine
from swapnet.executor.planning.curve import Point, curve, spread
from swapnet.executor.planning.plan import PlanOptions
from swapnet.executor.planning.usage import demand, least_weights_bytes, usage
from swapnet.executor.runtime.objectives import Objectives
from swapnet.executor.runtime.split import Claim, Option
from swapnet.files import replacing
from swapnet.manifest import CURVE, Manifest
from swapnet.profile import Profile

__all__ = [
    "OPTIONS",
    "POINTS",
    "Curves",
    "EngineCurve",
    "load_curves",
    "plan_curves",
    "plan_terms",
    "with_curve",
]

OPTIONS = PlanOptions(reading_weight=0.5, most_step_ms=10.0)
"""Options of plans for engines that share storage and processor: others wait for both."""

POINTS = 12
"""Points of a curve: each takes a search of plans."""

_SCHEMA: Final = "swapnet-latency-curve/2"


@dataclass(frozen=True)
class Curves:
    """Latency over budget, alone on the device.

    Attributes
    ----------
    apart, merged
        Of plans whose steps have one block each, and of plans whose steps may have several.
    """

    apart: tuple[Point, ...]
    merged: tuple[Point, ...]


class _Kept(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    schema: Literal["swapnet-latency-curve/2"]
    key: str
    curves: Curves


@dataclass(frozen=True)
class EngineCurve:
    """One engine.

    Attributes
    ----------
    engine
        The engine, at its input shapes and on the device of the runtime.
    curves
        Latency over budget, alone on the device.
    """

    engine: Engine
    curves: Curves

    def claim(self, name: str, objectives: Objectives, *, merged: bool = True) -> Claim:
        """Claim of the engine to the memory for weights.

        Parameters
        ----------
        name, objectives
            The model's.
        merged
            True where its steps may have several blocks.
        """
        points = self.curves.merged if merged else self.curves.apart
        return Claim(
            name,
            tuple(self.option(point, merged=merged) for point in points),
            objectives.priority,
            objectives.rate_per_s,
            objectives.deadline_ms,
        )

    def option(self, point: Point, *, merged: bool = True) -> Option:
        """Use of a share by the engine, at a point of a curve or at another one."""
        nbytes = point.budget_bytes - usage(self.engine.manifest, merged=merged).total_bytes
        ring_bytes = max(nbytes - point.resident_bytes, 0)
        held = min(ring_bytes / point.streamed_bytes, 1.0) if point.streamed_bytes else 0.0
        return Option(nbytes, point.predicted_ms, point.reading_ms, held * point.reading_ms)

    def budget(self, share_bytes: int, *, merged: bool = True) -> tuple[int, PlanOptions]:
        """Budget that leaves a share for weights, and options of the plan for it."""
        manifest = self.engine.manifest
        return plan_terms(manifest, share_bytes, OPTIONS, merged=merged)


def plan_terms(
    manifest: Manifest, share_bytes: int, options: PlanOptions, *, merged: bool
) -> tuple[int, PlanOptions]:
    """Budget and options of a plan that has ``share_bytes`` for weights.

    A plan with a smaller limit of scratch memory would take the rest for weights, which other
    engines need for theirs.
    """
    used = usage(manifest, merged=merged)
    options = replace(options, merge=merged, least_scratch_bytes=used.scratch_bytes)
    return used.total_bytes + share_bytes, options


def with_curve(engine: Engine) -> EngineCurve:
    """An engine with its curve, which is planned the first time.

    Raises
    ------
    EngineError
        The delays are damaged.
    """
    folder, device = engine.folder, engine.device
    if engine.measured.is_assumed:
        logging.getLogger(__name__).warning(
            "delays of %s are assumed, not measured: swapnet measure %s --threads %d",
            folder,
            folder,
            device.threads,
        )
    is_kept = device.pace is None
    curves = load_curves(folder, engine.manifest, engine.delays, OPTIONS, keep=is_kept)
    return EngineCurve(engine, curves)


def load_curves(
    folder: Path, manifest: Manifest, profile: Profile, options: PlanOptions, *, keep: bool = True
) -> Curves:
    """The curves of an engine; planned, and kept where the folder can be written, the first time.

    Parameters
    ----------
    folder, manifest
        The engine.
    profile, options
        Delays and options of the plans. Kept curves of others are stale: they are planned again.
    keep
        Write the curves to the folder, in place of those there.
    """
    path = folder / CURVE
    key = _key(manifest, profile, options)
    with suppress(OSError, msgspec.MsgspecError):
        kept = msgspec.json.decode(path.read_bytes(), type=_Kept)
        if kept.key == key:
            return kept.curves
    curves = plan_curves(manifest, profile, options)
    if not keep:
        return curves
    with suppress(SwapnetError), replacing(path) as temporary:
        temporary.write_bytes(msgspec.json.encode(_Kept(_SCHEMA, key, curves)))
    return curves


def plan_curves(manifest: Manifest, profile: Profile, options: PlanOptions) -> Curves:
    """The curves of an engine, planned; equal limits have one curve."""
    limits = [usage(manifest, merged=merged).scratch_bytes for merged in (False, True)]
    apart, merged = (
        curve(
            manifest,
            profile,
            plan_terms(manifest, 0, options, merged=merged)[1],
            budgets=_budgets(manifest, merged=merged),
        )
        if merged or limits[0] < limits[1]
        else ()
        for merged in (False, True)
    )
    return Curves(apart or merged, merged)


def _budgets(manifest: Manifest, *, merged: bool) -> tuple[int, ...]:
    other = usage(manifest, merged=merged).total_bytes
    weights = demand(manifest).weights_bytes
    return spread(other + least_weights_bytes(manifest), other + weights, POINTS)


def _key(manifest: Manifest, profile: Profile, options: PlanOptions) -> str:
    """Digest of all that the curve depends on; budgets tell which memory is counted, and how."""
    digest = hashlib.sha256()
    budgets = [_budgets(manifest, merged=merged) for merged in (False, True)]
    for part in (manifest, profile, options, budgets):
        digest.update(msgspec.json.encode(part))
    return digest.hexdigest()
