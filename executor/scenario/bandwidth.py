"""Bandwidth of storage while nothing else is done."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from swapnet.executor.pace import Pace
from swapnet.executor.swapping.storage import LoadMode, WeightFile
from swapnet.manifest import WEIGHTS, Extent, Manifest

__all__ = ["Bandwidth"]

_SAMPLE_BYTES = 64 << 20
_FLOW_S = 0.2


class Bandwidth:
    """Reads the largest engine's weights as our executor does; a context manager.

    Attributes
    ----------
    mode
        The way that weights are read.
    """

    def __init__(
        self, engines: Sequence[tuple[Path, Manifest]], *, pace: Pace | None = None
    ) -> None:
        from swapnet.executor.probing.reader import BackgroundReader

        folder, manifest = max(engines, key=lambda engine: engine[1].weights_nbytes)
        self._storage = WeightFile(folder / WEIGHTS, pace=pace)
        self.mode: LoadMode = self._storage.mode
        self._reader = BackgroundReader(self._storage, _sample(manifest))

    def measure(self) -> float:
        """Bytes per second, for a while."""
        if flow := self._reader.flow(_FLOW_S):
            return flow
        return self._reader.total_bytes / self._reader.once()

    def __enter__(self) -> Bandwidth:
        return self

    def __exit__(self, *_: object) -> None:
        self._storage.close()


def _sample(manifest: Manifest) -> list[Extent]:
    extents: list[Extent] = []
    for block in manifest.blocks:
        if block.extent.nbytes and sum(extent.nbytes for extent in extents) < _SAMPLE_BYTES:
            extents.append(block.extent)
    return extents
