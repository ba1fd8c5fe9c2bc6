"""How far two sets of outputs are apart."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from swapnet.executor.backends.base import Array

__all__ = ["largest_difference"]


def largest_difference(
    ours: Mapping[str, Array], theirs: Mapping[str, Array]
) -> tuple[float, float]:
    """Largest difference: absolute, and over the largest magnitude of its output.

    NaN in one place and not in the other is an infinite difference.
    """
    absolute = relative = 0.0
    for name, reference in theirs.items():
        expected = reference.astype(np.float64)
        found = ours[name].astype(np.float64)
        differs = (found != expected) & ~(np.isnan(found) & np.isnan(expected))
        gaps = np.nan_to_num(np.abs(found[differs] - expected[differs]), nan=np.inf)
        gap = float(gaps.max(initial=0.0))
        scale = float(np.nanmax(np.abs(expected), initial=0.0))
        absolute = max(absolute, gap)
        relative = max(relative, gap / scale if scale else gap)
    return absolute, relative
