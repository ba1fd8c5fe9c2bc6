"""An engine with its latency over memory, as the split of a budget sees it."""

from __future__ import annotations

import hashlib
import logging
from contextlib import suppress
from dataclasses import dataclass, field, replace
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
from swapnet.strips import Striping

__all__ = [
    "OPTIONS",
    "POINTS",
    "EngineCurve",
    "load_curve",
    "plan_curve",
    "with_curve",
]

OPTIONS = PlanOptions(reading_weight=0.5, most_step_ms=10.0, strips=False, packed_bytes=0)
"""Options of plans for engines that share storage and processor: others wait for both. Budgets
change often, and sessions of packed weights are made once.

Which blocks are in strips is decided for all engines together.
"""

POINTS = 12
"""Points of a curve: each takes a search of plans."""

_SCHEMA: Final = "swapnet-latency-curve/3"


class _Kept(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    schema: Literal["swapnet-latency-curve/3"]
    key: str
    points: tuple[Point, ...]


@dataclass(frozen=True)
class EngineCurve:
    """One engine.

    Attributes
    ----------
    engine
        The engine, at its input shapes and on the device of the runtime.
    points
        Latency over budget, alone on the device.
    striping
        The blocks in strips.
    known
        Points by the blocks in strips, as far as they are planned.
    """

    engine: Engine
    points: tuple[Point, ...]
    striping: Striping | None = None
    known: dict[Striping | None, tuple[Point, ...]] = field(default_factory=dict, compare=False)

    @property
    def options(self) -> PlanOptions:
        """Restrictions of plans."""
        return replace(OPTIONS, strips=self.striping or False)

    def in_strips(self, striping: Striping | None) -> EngineCurve:
        """The engine with these blocks in strips; its curve is planned the first time."""
        self.known[self.striping] = self.points
        if striping not in self.known:
            self.known[striping] = plan_curve(self.engine.manifest, self.engine.delays, striping)
        return replace(self, points=self.known[striping], striping=striping)

    def claim(self, name: str, objectives: Objectives) -> Claim:
        """Claim of the engine, as a model of this name, to the memory for weights."""
        return Claim(name, tuple(map(self.option, self.points)), **vars(objectives))

    def option(self, point: Point) -> Option:
        """Use of a share by the engine, at a point of a curve or at another one."""
        nbytes = point.budget_bytes - self.budget(0)
        ring_bytes = max(nbytes - point.resident_bytes, 0)
        held = min(ring_bytes / point.streamed_bytes, 1.0) if point.streamed_bytes else 0.0
        return Option(nbytes, point.predicted_ms, point.reading_ms, held * point.reading_ms)

    def budget(self, share_bytes: int) -> int:
        """Budget that leaves a share for weights."""
        return usage(self.engine.manifest, self.striping).total_bytes + share_bytes


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
    points = load_curve(folder, engine.manifest, engine.delays, keep=device.pace is None)
    return EngineCurve(engine, points)


def load_curve(
    folder: Path, manifest: Manifest, profile: Profile, *, keep: bool = True
) -> tuple[Point, ...]:
    """The curve of an engine; planned, and kept where the folder can be written, the first time.

    Parameters
    ----------
    folder, manifest
        The engine.
    profile
        Delays of the plans. A kept curve of others is stale: it is planned again.
    keep
        Write the curve to the folder, in place of the one there.
    """
    path = folder / CURVE
    key = _key(manifest, profile)
    with suppress(OSError, msgspec.MsgspecError):
        kept = msgspec.json.decode(path.read_bytes(), type=_Kept)
        if kept.key == key:
            return kept.points
    points = plan_curve(manifest, profile)
    if not keep:
        return points
    with suppress(SwapnetError), replacing(path) as temporary:
        temporary.write_bytes(msgspec.json.encode(_Kept(_SCHEMA, key, points)))
    return points


def plan_curve(
    manifest: Manifest, profile: Profile, striping: Striping | None = None
) -> tuple[Point, ...]:
    """The curve of an engine with these blocks in strips, planned."""
    options = replace(OPTIONS, strips=striping or False)
    return curve(manifest, profile, options, budgets=_budgets(manifest, striping))


def _budgets(manifest: Manifest, striping: Striping | None = None) -> tuple[int, ...]:
    other = usage(manifest, striping).total_bytes
    weights = demand(manifest).weights_bytes
    return spread(other + least_weights_bytes(manifest, striping), other + weights, POINTS)


def _key(manifest: Manifest, profile: Profile) -> str:
    """Digest of all that the curve depends on; budgets tell which memory is counted, and how."""
    digest = hashlib.sha256()
    for part in (manifest, profile, OPTIONS, _budgets(manifest)):
        digest.update(msgspec.json.encode(part))
    return digest.hexdigest()
