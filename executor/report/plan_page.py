"""The page of a plan: latency over budget before anything runs."""

from __future__ import annotations

from collections.abc import Sequence

from swapnet.executor.planning.curve import Point
from swapnet.executor.planning.planner import smallest_budget
from swapnet.executor.planning.usage import demand
from swapnet.executor.report.figures import curve_figure
from swapnet.executor.report.page import Column, Facts, Page, Table
from swapnet.manifest import Manifest
from swapnet.profile import Profile
from swapnet.units import format_size, rounded_up

__all__ = ["plan_page"]

_MIB = 1 << 20
_SIZES = ("budget", "resident", "streamed")


def plan_page(manifest: Manifest, profile: Profile, points: Sequence[Point]) -> Page:
    """The page of an engine that is planned with these delays: predictions at some budgets."""
    needed, (smallest, reason) = demand(manifest), smallest_budget(manifest)
    speed = f"{profile.storage.bytes_per_s / 1e6:.0f} MB/s"
    facts = [
        ("Demand", format_size(needed.total_bytes), "unswapped"),
        ("Weights", format_size(needed.weights_bytes), f"in {len(manifest.blocks)} blocks"),
        ("Smallest budget", rounded_up(smallest), reason),
        ("Storage", speed, "while nothing computes"),
    ]
    columns = [Column(f"{name} [MiB]", "{:.1f}") for name in _SIZES]
    columns += [Column(f"{name} [ms]", "{:.1f}") for name in ("predicted", "floor")]
    rows = [
        (
            *(nbytes / _MIB for nbytes in (p.budget_bytes, p.resident_bytes, p.streamed_bytes)),
            *(p.predicted_ms, p.bound_ms),
        )
        for p in points
    ]
    subtitle = f"Predicted with the delays of {profile.device}"
    curve = curve_figure(points)
    parts = (Facts(facts), "Latency over budget", curve, Table(columns, rows))
    return Page(manifest.source.name, subtitle, [], parts)
