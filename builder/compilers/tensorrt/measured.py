"""Which weight style is faster for each block, measured on the GPU that builds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from swapnet.builder.compilers.base import WeightStyle
from swapnet.errors import SwapnetError
from swapnet.executor.probing.swaps import measure_swaps
from swapnet.manifest import Manifest

__all__ = ["measure_styles"]

_STYLES: tuple[WeightStyle, ...] = ("external", "embedded")


def measure_styles(
    build: Callable[[str, Path], Manifest],
    work: Path,
    swaps: Callable[[Path], tuple[float, ...]] = measure_swaps,
) -> dict[int, dict[WeightStyle, float]]:
    """Build an engine in each style, run both, and compare block by block.

    Parameters
    ----------
    build
        Builds one of a style into a folder; blocks are the same in both.
    work
        Where both go.
    swaps
        Milliseconds that each block of an engine takes.

    Returns
    -------
    dict
        Of each style, by block; empty where one of the styles can't be built or run at all, for
        then the rule decides.
    """
    measured: dict[int, dict[WeightStyle, float]] = {}
    for style in _STYLES:
        folder = work / style
        try:
            build(style, folder)
            times = swaps(folder)
        except SwapnetError:
            return {}
        for block, ms in enumerate(times):
            measured.setdefault(block, {})[style] = ms
    return measured
