"""Compare two engines of one model, and their outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from swapnet.errors import InputError
from swapnet.executor.backends.base import Array
from swapnet.manifest import Manifest

__all__ = ["check_comparable", "largest_difference"]


def check_comparable(names: Sequence[str], manifests: Sequence[Manifest]) -> None:
    """Check that two engines were built from one model, and are planned for the same input shapes.

    Raises
    ------
    InputError
        Models or shapes differ.
    """
    sources = [manifest.source for manifest in manifests]
    hashes = [" and of its data ".join(filter(None, (s.sha256, s.data_sha256))) for s in sources]
    if hashes[0] != hashes[1]:
        raise InputError(
            f"{names[0]} and {names[1]} are not engines of one model",
            why=" and ".join(
                f"{s.name} has SHA-256 {found}" for s, found in zip(sources, hashes, strict=True)
            ),
            hint="compare engines that were built from the same file",
        )
    shapes = [manifest.planned_shapes for manifest in manifests]
    if shapes[0] != shapes[1]:
        raise InputError(
            f"{names[0]} and {names[1]} are planned for other input shapes",
            why=f"{shapes[0]} and {shapes[1]}",
            hint="give both the same: --shapes name:1x3x224x224",
        )


def largest_difference(
    ours: Mapping[str, Array], theirs: Mapping[str, Array]
) -> tuple[float, float]:
    """Largest difference: absolute, and relative to the largest magnitude of its output.

    NaN on one side only is an infinite difference, and so are two shapes.
    """
    absolute = relative = 0.0
    for name, reference in theirs.items():
        expected = reference.astype(np.float64)
        found = ours[name].astype(np.float64)
        if found.shape != expected.shape:
            return np.inf, np.inf
        differs = (found != expected) & ~(np.isnan(found) & np.isnan(expected))
        gaps = np.nan_to_num(np.abs(found[differs] - expected[differs]), nan=np.inf)
        gap = float(gaps.max(initial=0.0))
        scale = float(np.nanmax(np.abs(expected), initial=0.0))
        absolute = max(absolute, gap)
        relative = max(relative, gap / scale if scale else gap)
    return absolute, relative
