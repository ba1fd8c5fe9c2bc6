"""An engine as the split of a budget sees it: what it needs, and what more memory is worth."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from swapnet.executor.device import Device
from swapnet.executor.planning.curve import Point
from swapnet.executor.planning.plan import PlanOptions
from swapnet.executor.planning.usage import for_pool, usage
from swapnet.executor.runtime.curves import load_curve
from swapnet.executor.runtime.split import Claim, Option
from swapnet.executor.runtime.terms import Terms
from swapnet.manifest import Manifest, load_manifest
from swapnet.profile import load_profile

__all__ = ["OPTIONS", "Engine", "open_engine"]

OPTIONS = PlanOptions(reading_weight=0.5, most_step_ms=10.0)
"""How engines are planned that share storage and processor: others wait for both."""


@dataclass(frozen=True)
class Engine:
    """One engine directory.

    Attributes
    ----------
    folder, manifest, shapes
        The engine, at these input shapes.
    curve
        Latency over budget, alone on the device.
    """

    folder: Path
    manifest: Manifest
    shapes: Mapping[str, Sequence[int]] | None
    curve: tuple[Point, ...]

    @property
    def alone_bytes(self) -> int:
        """What it uses beside weights where it shares with nobody: in each of its budgets."""
        return usage(self.manifest).total_bytes

    def claim(self, name: str, terms: Terms) -> Claim:
        """What it asks of the memory for weights."""
        options = tuple(map(self._option, self.curve))
        return Claim(name, options, terms.priority, terms.rate_per_s, terms.deadline_ms)

    def _option(self, point: Point) -> Option:
        nbytes = point.budget_bytes - self.alone_bytes
        ring_bytes = max(nbytes - point.resident_bytes, 0)
        held = min(ring_bytes / point.streamed_bytes, 1.0) if point.streamed_bytes else 0.0
        return Option(nbytes, point.predicted_ms, point.reading_ms, held * point.reading_ms)


def open_engine(
    folder: Path, device: Device, shapes: Mapping[str, Sequence[int]] | None = None
) -> Engine:
    """Read an engine directory, and plan its curve the first time.

    Raises
    ------
    EngineError
        It is missing, damaged, or not measured at these shapes.
    """
    manifest = for_pool(load_manifest(folder, shapes), device.pool)
    measured = load_profile(folder, manifest, device.fingerprint)
    if measured.is_assumed:
        logging.getLogger(__name__).warning(
            "delays of %s are assumed, not measured: swapnet measure %s --threads %d",
            folder,
            folder,
            device.threads,
        )
    profile = device.paced(measured)
    is_kept = device.pace is None
    points = load_curve(folder, manifest, profile, OPTIONS, keep=is_kept)
    return Engine(folder, manifest, shapes, points)
