"""What swapping does for speed, switched off one at a time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from swapnet.executor.planning.plan import PlanOptions
from swapnet.executor.swapping.storage import LoadMode

__all__ = ["ABLATIONS", "Variant"]


@dataclass(frozen=True)
class Variant:
    """Another way to swap.

    Attributes
    ----------
    title
        In a table.
    options
        How to plan.
    load_mode
        How weights are read; None as in the side that it is compared with.
    """

    title: str
    options: PlanOptions = field(default_factory=PlanOptions)
    load_mode: LoadMode | None = None


ABLATIONS: Mapping[str, Variant] = {
    "buffered": Variant("page cache instead of direct I/O", load_mode=LoadMode.BUFFERED),
    "no-resident": Variant("no resident set", PlanOptions(resident=False)),
    "no-cyclic": Variant("no cyclic prefetch", PlanOptions(cyclic=False)),
}
"""By name; those without a part of the plan as the options of ``swapnet bench`` are called."""
