"""Latency over memory of each engine, kept beside it: a curve takes seconds to plan."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from pathlib import Path
from typing import Final, Literal

import msgspec

from swapnet.errors import SwapnetError
from swapnet.executor.planning.curve import Point, curve, curve_budgets
from swapnet.executor.planning.plan import PlanOptions
from swapnet.files import replacing
from swapnet.manifest import Manifest
from swapnet.profile import Profile

__all__ = ["CURVE", "load_curve"]

CURVE = "curve.json"

_POINTS = 12
_SCHEMA: Final = "swapnet-curve/1"


class _Curve(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    schema: Literal["swapnet-curve/1"]
    key: str
    points: tuple[Point, ...]


def load_curve(
    folder: Path, manifest: Manifest, profile: Profile, options: PlanOptions, *, keep: bool = True
) -> tuple[Point, ...]:
    """The curve of an engine; planned, and kept where the folder can be written, the first time.

    Parameters
    ----------
    folder, manifest
        The engine.
    profile, options
        What is planned with; a curve of others is planned anew.
    keep
        In place of the one that is kept.
    """
    path = folder / CURVE
    key = _key(manifest, profile, options)
    with suppress(OSError, msgspec.MsgspecError):
        kept = msgspec.json.decode(path.read_bytes(), type=_Curve)
        if kept.key == key:
            return kept.points
    points = curve(manifest, profile, options, count=_POINTS)
    if not keep:
        return points
    record = _Curve(_SCHEMA, key, points)
    with suppress(SwapnetError), replacing(path) as temporary:
        temporary.write_bytes(msgspec.json.encode(record))
    return points


def _key(manifest: Manifest, profile: Profile, options: PlanOptions) -> str:
    """Of everything that the curve depends on; budgets tell what memory is counted, and how."""
    digest = hashlib.sha256()
    for part in (manifest, profile, options, curve_budgets(manifest, _POINTS)):
        digest.update(msgspec.json.encode(part))
    return digest.hexdigest()
